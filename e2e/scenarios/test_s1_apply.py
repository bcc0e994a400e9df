"""S1: apply three lines, wait for Ready, ask with the openai client; the same on SGLang and with R1 in FP8."""

from __future__ import annotations

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from e2e.stage import NAMESPACE, Object, Stage

CASES: dict[str, tuple[Object, str]] = {
    "glm-5": ({"model": {"name": "glm-5"}}, "blackwell-b200-nvfp4-vllm"),
    "glm-5-sglang": ({"model": {"name": "glm-5"}, "engine": {"name": "SGLang"}}, "blackwell-b200-nvfp4-sglang"),
    "deepseek-r1": (
        {
            "model": {"name": "deepseek-r1"},
            "placement": {"variants": [{"pool": "hopper-h200", "precision": "FP8"}]},
        },
        "hopper-h200-fp8-vllm",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_s1_three_lines_answer(play: Stage, name: str) -> None:
    spec, variant = CASES[name]
    play.apply(play.moe(name, spec))
    play.wait_ready(name)

    host = {"Host": f"{name}.{NAMESPACE}.svc"}
    client = OpenAI(base_url=f"{play.urls()[0]}/v1", api_key="any", default_headers=host, max_retries=0)
    model = client.models.list().data[0].id
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say something about dams. [[out=25]]"}]
    answer = client.chat.completions.create(model=model, messages=messages)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 25
    assert answer.choices[0].message.content

    chunks = list(client.chat.completions.create(model=model, messages=messages, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    assert chunks[-1].choices[0].finish_reason == "stop"

    status = play.wait("a status that shows it", lambda: ready_status(play, name), 20)
    assert status["endpoint"] == f"http://{name}.{NAMESPACE}.svc/v1"
    assert [v["name"] for v in status["variants"] if v["ready"]] == [variant]
    assert status["decisions"][-1]["reason"] == "FloorRaised"
    assert "1/1" in play.cluster.kubectl("get", "moe", name, "-n", NAMESPACE, "--no-headers").stdout
    explained = play.wait("the leader's account", lambda: account(play, name), 60)
    assert variant in explained
    assert "WeightsNotKept" in {e["reason"] for e in play.events(name)}, "nothing keeps what this replica fetched"


def account(play: Stage, name: str) -> str:
    """What `kubectl spillway explain` tells, once it knows what each option would cost."""
    told = play.spillway("explain", name, "-n", NAMESPACE)
    return told if "ALL OF IT ON" in told else ""


def ready_status(play: Stage, name: str) -> Object | None:
    status = play.status(name)
    return status if status.get("summary") == "1/1" else None
