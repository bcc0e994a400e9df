"""What nobody may read: prompts, answers and keys are in no output of the gateway's process, nor in what it shows."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import aiohttp
import pytest

from spillway.gateway.desired import Desired
from spillway.gateway.process import run_gateway
from tests.integration.gateway.rig import PROVIDER_PORT, Rig, deployment, egress, provider, spill

ZAI, BAD = ("zai", "glm-5.1"), ("bad", "glm-5.1")
PROMPT, KEY, OTHER_KEY, CLIENTS_KEY = "marked-prompt-7f3a", "sk-marked-5c1e", "sk-marked-9d2b", "sk-client-marked-44aa"
MARKS = (PROMPT, KEY, OTHER_KEY, CLIENTS_KEY, "marked-answer-1b9c")


async def play(rig: Rig) -> None:
    """Requests of every fate: local, spilled, refused by a provider, aborted, too large, malformed, to nobody."""
    engine, address = await rig.fake("marked-answer-1b9c")
    zai, at_zai = await rig.fake("zai", PROVIDER_PORT)
    bad, at_bad = await rig.fake("bad", PROVIDER_PORT)
    bad.status = 401
    (rig.directory / "keys" / "zai").write_text(KEY)
    (rig.directory / "keys" / "bad").write_text(OTHER_KEY)
    await rig.publish(
        Desired(
            (deployment(address), deployment(name="spilling", chain=(BAD, ZAI))),
            (provider("zai", at_zai), provider("bad", at_bad)),
            (egress(*ZAI), egress(*BAD)),
            {"chat/spilling": spill(BAD, ZAI)},
        )
    )
    await rig.start_envoy()
    await rig.healthy("local|chat/glm-5", 1)
    body = {"model": "glm-5", "messages": [{"role": "user", "content": PROMPT}]}
    headers = {"authorization": f"Bearer {CLIENTS_KEY}", "x-api-key": CLIENTS_KEY}
    for host in ("glm-5.chat", "spilling.chat", f"{PROMPT}.chat"):
        await rig.post(body, host=host, headers=headers)
        await rig.post({**body, "stream": True}, host=host, headers=headers)
        await rig.post(body, host=host, headers=headers, path=f"/v1/{PROMPT}?key={CLIENTS_KEY}")
        async with rig.session.post(f"{rig.url}/v1/chat/completions", data=f'{{"{PROMPT}', headers={"host": host}):
            pass
    assert zai.seen and bad.seen and engine.seen
    assert zai.seen[-1].headers["Authorization"] == f"Bearer {KEY}"
    engine.status = 500
    await rig.post(body, headers=headers)
    engine.status = 200
    engine.hold.clear()
    with pytest.raises(TimeoutError):
        await rig.post(body, headers=headers, timeout=aiohttp.ClientTimeout(total=0.5))
    engine.hold.set()


async def test_nothing_of_prompts_and_keys_is_shown(
    rig: Rig, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("DEBUG", logger="spillway"):
        await play(rig)
    shown = {
        "Envoy's log": (rig.directory / "envoy.log").read_text(),
        "the operator's log": "".join(str(record.__dict__) for record in caplog.records),
        "other output": "".join(capfd.readouterr()),
    }
    for page in ("/metrics", "/counters", "/ready"):
        async with rig.session.get(rig.metrics + page) as answer:
            shown[page] = await answer.text()
    connector = aiohttp.UnixConnector(path=str(rig.admin_socket))
    async with aiohttp.ClientSession("http://admin", connector=connector) as admin:
        for page in ("/config_dump?include_eds", "/clusters", "/stats", "/certs", "/runtime"):
            async with admin.get(page) as answer:
                shown[f"admin {page}"] = await answer.text()
    for path in (rig.directory / "run").iterdir():
        if path.is_file():
            shown[str(path)] = path.read_text()
    assert "zai" in shown["admin /config_dump?include_eds"]
    assert "chat/glm-5" in shown["/counters"]
    found = [(where, mark) for where, text in shown.items() for mark in (*MARKS, "PRIVATE KEY") if mark in text]
    assert found == []


async def test_what_envoy_logs_with_more_words_holds_no_platform_key(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At `info`, the most that may be asked for."""
    monkeypatch.setenv("SPILLWAY_GATEWAY_LOG_LEVEL", "info")
    await play(rig)
    text = (rig.directory / "envoy.log").read_text()
    assert "[info]" in text
    assert [mark for mark in MARKS if mark in text] == []


@pytest.mark.parametrize("level", ["debug", "trace", "Warning"])
def test_levels_at_which_envoy_prints_headers_are_refused(tmp_path: Path, level: str) -> None:
    env = {
        "POD_NAME": "gateway-0",
        "POD_IP": "127.0.0.1",
        "SPILLWAY_ADS_ADDRESS": "127.0.0.1:18000",
        "SPILLWAY_RUN_DIRECTORY": str(tmp_path),
        "SPILLWAY_GATEWAY_LOG_LEVEL": level,
    }
    with pytest.raises(ValueError, match=f"SPILLWAY_GATEWAY_LOG_LEVEL is '{level}': use one of info, warning"):
        run_gateway(env)


async def test_the_admin_interface_is_a_socket_of_the_pod(rig: Rig) -> None:
    await rig.publish(Desired())
    await rig.start_envoy()
    assert stat.S_IMODE(rig.admin_socket.stat().st_mode) == 0o600
    bootstrap = json.loads(Path(rig.directory, "run", "bootstrap.json").read_text())
    assert bootstrap["admin"]["address"].keys() == {"pipe"}
    # Of its pages three are served outside the pod, and only to look at.
    for path in (
        "/",
        "/config_dump",
        "/stats",
        "/quitquitquit",
        "/healthcheck/fail",
        "/runtime_modify?a=b",
        "/metrics/../quitquitquit",
    ):
        for method in ("GET", "POST"):
            async with rig.session.request(method, rig.metrics + path) as answer:
                assert answer.status == 404, (method, path)
    async with rig.session.post(rig.metrics + "/metrics") as answer:
        assert answer.status == 404
    async with rig.session.get(rig.metrics + "/counters?filter=.*") as answer:
        assert "envoy_server_live" not in await answer.text()
