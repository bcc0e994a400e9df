"""Clients inside the cluster reach a model by its name: cluster DNS, an ExternalName Service, the gateway's Service."""

from __future__ import annotations

import json

import pytest

from e2e.stage import NAMESPACE, Stage

_NAMES = ("glm-5.chat.svc", "glm-5.chat.svc.cluster.local", "glm-5.chat")
_CLIENT = """
import json, sys
from openai import OpenAI
for name in sys.argv[1:]:
    client = OpenAI(base_url=f"http://{name}/v1", api_key="any", max_retries=0)
    messages = [{"role": "user", "content": "Say something about dams. [[out=25]]"}]
    answer = client.chat.completions.create(model="glm-5", messages=messages)
    chunks = list(client.chat.completions.create(model="glm-5", messages=messages, stream=True))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    print(json.dumps({"name": name, "tokens": answer.usage.completion_tokens, "streamed": bool(streamed)}))
"""


@pytest.mark.only("kind")
def test_clients_in_the_cluster_ask_by_name(play: Stage) -> None:
    play.apply(play.moe("glm-5", {"model": {"name": "glm-5"}}))
    play.wait_ready("glm-5")
    printed = play.kind.run_python(NAMESPACE, _CLIENT, _NAMES)
    answers = [json.loads(line) for line in printed.splitlines()]
    assert answers == [{"name": name, "tokens": 25, "streamed": True} for name in _NAMES]
