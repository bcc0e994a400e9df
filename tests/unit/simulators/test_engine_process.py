"""The engine as a process: what clients, probes and a SIGTERM see."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.unit.simulators.running import Running, chat, engine, events, first_line, running, start

VLLM = ("vllm", "serve", "nvidia/GLM-5-NVFP4", "--served-model-name", "glm-5")
SGLANG = ("python3", "-m", "sglang.launch_server", "--model-path", "m", "--served-model-name", "glm-5")


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return response.status


async def post(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        return response.status, await response.json()


async def until_drains(session: aiohttp.ClientSession, server: Running, path: str, wanted: int) -> None:
    """SIGTERM needs a moment to arrive: wait until `path` shows it."""
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while True:
            if path == "chat":
                seen, _ = await post(session, server.url, chat("x [[out=1]]"))
            else:
                seen = await status(session, f"{server.url}{path}")
            if seen == wanted:
                return


@pytest.mark.parametrize(
    ("command", "flag"),
    [(VLLM, "--enable-prompt-tokens-details"), (SGLANG, "--enable-cache-report")],
)
async def test_cached_tokens_are_told_where_a_flag_asks_for_it(command: tuple[str, ...], flag: str) -> None:
    body = chat("x" * 400 + "[[out=1]]")
    async with engine(*command, flag) as server, aiohttp.ClientSession() as session:
        told = [json.dumps((await post(session, server.url, body))[1]["usage"]) for _ in range(2)]
        for text, cached in zip(told, (0, 96), strict=True):
            assert f'"prompt_tokens_details": {{"cached_tokens": {cached}}}' in text
    async with engine(*command) as server, aiohttp.ClientSession() as session:
        assert "prompt_tokens_details" not in str(await post(session, server.url, body))


async def test_answers_as_json_and_as_stream() -> None:
    async with engine(*VLLM) as server, aiohttp.ClientSession() as session:
        code, body = await post(session, server.url, chat("x" * 392 + "[[out=5]]", max_tokens=3))
        assert code == 200
        assert body["usage"] == {"prompt_tokens": 101, "completion_tokens": 3, "total_tokens": 104}
        asked = chat("hello [[out=12]]", stream=True, stream_options={"include_usage": True})
        async with session.post(f"{server.url}/v1/chat/completions", json=asked) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            payloads = events(await response.read())
        assert payloads[-1] == "[DONE]"
        chunks = [json.loads(payload) for payload in payloads[:-1]]
        assert chunks[-1]["usage"]["completion_tokens"] == 12
        assert chunks[-1]["choices"] == []
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
        assert len(text) == 12 * 4
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        async with session.post(
            f"{server.url}/v1/completions", json={"model": "glm-5", "prompt": "a [[out=2]]"}
        ) as old:
            assert len((await old.json())["choices"][0]["text"]) == 8
        async with session.get(f"{server.url}/v1/models") as models:
            assert [card["id"] for card in (await models.json())["data"]] == ["glm-5"]
        assert (await post(session, server.url, {**chat("x"), "model": "other"}))[0] == 404
        assert (await post(session, server.url, {"model": "glm-5"}))[0] == 400
        assert (await post(session, server.url, chat("x", max_tokens=10**6)))[0] == 400


async def test_refuses_connections_while_it_loads() -> None:
    process = await start("e2e.simulators.engine", *VLLM, environment={"SIM_LOAD_SECONDS": "3600"})
    async with running(process), aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await status(session, "http://127.0.0.1:8000/health")
        # Terminated while loading it ends as an untrapped SIGTERM would (or by it, if it had not come that far).
        process.terminate()
        assert await process.wait() in {143, -signal.SIGTERM}


async def test_unknown_flag_ends_the_process_with_2() -> None:
    process = await start("e2e.simulators.engine", *VLLM, "--enable-magic")
    async with running(process):
        _, errors = await process.communicate()
        assert process.returncode == 2
        assert b"unrecognized arguments: --enable-magic" in errors


async def test_vllm_counts_running_requests_into_its_queue_limit() -> None:
    """Measured on vLLM: max-num-seqs 8, max-num-queued-reqs 12, 30 at once give 12 times 200 and 18 times 503."""
    flags = ("--max-num-seqs", "8", "--max-num-queued-reqs", "12")
    async with engine(*VLLM, *flags) as server, aiohttp.ClientSession() as session:
        answers = await asyncio.gather(*(post(session, server.url, chat("x [[out=60]]")) for _ in range(30)))
        codes = [code for code, _ in answers]
        assert (codes.count(200), codes.count(503)) == (12, 18)
        async with session.get(f"{server.url}/metrics") as page:
            assert 'reason="max_num_queued_reqs"} 18.0' in await page.text()


async def test_sglang_refuses_when_its_queue_is_full() -> None:
    flags = ("--max-running-requests", "1", "--max-queued-requests", "2")
    async with engine(*SGLANG, *flags) as server, aiohttp.ClientSession() as session:
        answers = await asyncio.gather(*(post(session, server.url, chat("x [[out=40]]")) for _ in range(5)))
        refused = [body for code, body in answers if code == 503]
        assert [code for code, _ in answers].count(200) == 3
        assert {body["message"] for body in refused} == {"The request queue is full."}
        # A stream is refused inside the stream: the status line is out already.
        ahead = [asyncio.create_task(post(session, server.url, chat("x [[out=40]]"))) for _ in range(5)]
        done, _ = await asyncio.wait(ahead, return_when=asyncio.FIRST_COMPLETED)
        assert next(iter(done)).result()[0] == 503
        async with session.post(f"{server.url}/v1/chat/completions", json=chat("x", stream=True)) as response:
            assert response.status == 200
            payloads = events(await response.read())
        assert json.loads(payloads[0])["error"]["message"] == "The request queue is full."
        await asyncio.gather(*ahead)


async def test_vllm_drains_healthy_and_refuses_new_requests_with_500() -> None:
    async with engine(*VLLM, "--shutdown-timeout", "30") as server, aiohttp.ClientSession() as session:
        asked = chat("x [[out=100]]", stream=True)
        async with session.post(f"{server.url}/v1/chat/completions", json=asked) as response:
            await response.content.readline()
            await until_drains(session, server, "chat", 500)
            assert await status(session, f"{server.url}/health") == 200
            assert await status(session, f"{server.url}/metrics") == 200
            assert events(await response.read())[-1] == "[DONE]"
        assert await server.process.wait() == 0


async def test_vllm_without_shutdown_timeout_cuts_what_is_in_flight() -> None:
    async with engine(*VLLM) as server, aiohttp.ClientSession() as session:
        asked = chat("x [[out=5000]]", stream=True)
        async with session.post(f"{server.url}/v1/chat/completions", json=asked) as response:
            await response.content.readline()
            server.process.terminate()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert await server.process.wait() == 0


async def test_sglang_turns_unready_and_drains_without_limit() -> None:
    environment = {"SIM_DRAIN_POLL_SECONDS": "0.1"}
    async with engine(*SGLANG, environment=environment) as server, aiohttp.ClientSession() as session:
        assert await status(session, f"{server.url}/ready") == 200
        assert await status(session, f"{server.url}/metrics") == 404
        asked = chat("x [[out=100]]", stream=True)
        async with session.post(f"{server.url}/v1/chat/completions", json=asked) as response:
            await response.content.readline()
            await until_drains(session, server, "/ready", 503)
            assert await status(session, f"{server.url}/health") == 503
            assert events(await response.read())[-1] == "[DONE]"
        assert await server.process.wait() == 0


async def test_api_key_guards_v1_alone() -> None:
    async with engine(*VLLM, "--api-key", "secret") as server, aiohttp.ClientSession() as session:
        assert await status(session, f"{server.url}/v1/models") == 401
        assert await status(session, f"{server.url}/health") == 200
        async with session.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer secret"}) as response:
            assert response.status == 200


async def test_a_client_that_hangs_up_frees_its_slot() -> None:
    async with engine(*VLLM, "--max-num-seqs", "1") as server, aiohttp.ClientSession() as session:
        for streaming in (True, False):
            long = asyncio.create_task(post(session, server.url, chat("x [[out=9000]]", stream=streaming)))
            async with asyncio.timeout(10):
                while 'running{engine="0",model_name="glm-5"} 1.0' not in await metrics_page(session, server):
                    pass
            long.cancel()
            async with asyncio.timeout(10):
                assert (await post(session, server.url, chat("x [[out=2]]")))[0] == 200
        assert 'finished_reason="abort",model_name="glm-5"} 2.0' in await metrics_page(session, server)


async def metrics_page(session: aiohttp.ClientSession, server: Running) -> str:
    async with session.get(f"{server.url}/metrics") as response:
        return await response.text()


async def test_what_hf_download_brought_needs_no_fetch_and_one_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    environment = {"SIM_FETCH_SECONDS": "0.5", "HF_HOME": str(tmp_path)}
    kept = tmp_path / "hub" / f"models--{VLLM[2].replace('/', '--')}"
    (kept / "blobs").mkdir(parents=True)
    (kept / "blobs" / "weights.incomplete").write_text("0.4")  # what an earlier fetch left
    process = await start("e2e.simulators.engine", "hf", "download", VLLM[2], environment=environment)
    async with running(process):
        assert (await first_line(process)).startswith("fetching ")
        assert await process.wait() == 0
    assert float((kept / "blobs" / "weights.incomplete").read_text()) == pytest.approx(0.5)
    command = (*VLLM, "--host", "0.0.0.0", "--port", "0")
    process = await start("e2e.simulators.engine", *command, environment=environment)
    async with running(process):
        assert (await first_line(process)).startswith("found ")


async def test_two_that_want_the_same_checkpoint_fetch_it_once(tmp_path: Path) -> None:
    environment = {"SIM_FETCH_SECONDS": "1", "HF_HOME": str(tmp_path)}
    words = ("hf", "download", "zai-org/GLM-5-FP8")
    both = [await start("e2e.simulators.engine", *words, environment=environment) for _ in range(2)]
    async with running(both[0]), running(both[1]):
        assert [await process.wait() for process in both] == [0, 0]
    (partial,) = tmp_path.rglob("weights.incomplete")
    assert float(partial.read_text()) == 1.0


async def test_weights_are_fetched_once_for_each_cache(tmp_path: Path) -> None:
    environment = {"SIM_FETCH_SECONDS": "0.2", "HF_HOME": str(tmp_path / "kept")}
    other = {**environment, "HF_HOME": str(tmp_path / "empty")}
    local = ("vllm", "serve", "/models/glm-5")
    cases = [(VLLM, environment, "fetching "), (VLLM, environment, "found "), (VLLM, other, "fetching ")]
    for command, variables, said in [*cases, (local, other, "vllm simulator of /models/glm-5")]:
        process = await start(
            "e2e.simulators.engine", *command, "--host", "0.0.0.0", "--port", "0", environment=variables
        )
        async with running(process):
            line = await first_line(process)
            assert line.startswith(said)
            if " simulator of " not in line:
                assert " simulator of " in await first_line(process), "it serves once it has its weights"
