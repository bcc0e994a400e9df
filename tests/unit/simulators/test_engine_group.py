"""Engines on several nodes: they meet by name, serve through the first, and fall together."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from e2e.cluster.processes import free_port
from tests.unit.simulators.running import Running, chat, first_line, running, start

LEADER = "r1-0.r1.chat"
VLLM = ("vllm", "serve", "deepseek-ai/DeepSeek-R1", "--served-model-name", "glm-5", "--port", "0")
SGLANG = ("python3", "-m", "sglang.launch_server", "--model-path", "m", "--served-model-name", "glm-5", "--port", "0")


def command(engine: str, rank: int, port: int) -> list[str]:
    nodes = ["--nnodes", "2", "--node-rank", str(rank)]
    if engine == "sglang":
        return [*SGLANG, "--tp-size", "16", *nodes, "--dist-init-addr", f"{LEADER}:{port}"]
    headless = ["--headless"] if rank else []
    if engine == "vllm-dp":
        places = ["--data-parallel-size-local", "8", "--data-parallel-start-rank", str(8 * rank)]
        where = ["--data-parallel-address", LEADER, "--data-parallel-rpc-port", str(port)]
        return [*VLLM, "--data-parallel-size", "16", *places, *where, *headless]
    where = ["--master-addr", LEADER, "--master-port", str(port)]
    return [*VLLM, "--tensor-parallel-size", "16", *nodes, *where, *headless]


async def connected(port: int) -> asyncio.StreamWriter:
    """A connection to the leader, which waits for its workers there."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                return (await asyncio.open_connection("127.0.0.1", port))[1]


@pytest.mark.parametrize("engine", ["vllm", "vllm-dp", "sglang"])
async def test_the_first_node_serves_once_all_have_met_and_falls_with_any(engine: str, tmp_path: Path) -> None:
    port, hosts = free_port(), tmp_path / "hosts"
    around = {"SIM_HOSTS": str(hosts), "SIM_GPUS": "8", "SIM_DECODE_TOKENS_PER_SECOND": "10", "POD_IP": "127.0.0.1"}
    leader = await start("e2e.simulators.engine", *command(engine, 0, port), environment=around)
    worker = await start("e2e.simulators.engine", *command(engine, 1, port), environment=around)
    async with running(leader), running(worker), aiohttp.ClientSession() as session:
        listening = asyncio.ensure_future(first_line(leader))
        (await connected(port)).close()
        assert not listening.done(), "nobody knows the leader's name yet, so nobody may serve"
        hosts.write_text(f"127.0.0.9 other\n127.0.0.1 {LEADER}\n")
        server = Running(leader, (await listening).split(" on ")[1].strip())
        async with session.get(f"{server.url}/health") as response:
            assert response.status == 200
        long = asyncio.ensure_future(
            session.post(f"{server.url}/v1/chat/completions", json=chat("x [[out=5000]]", stream=True))
        )
        async with session.get(f"{server.url}/metrics" if engine != "sglang" else f"{server.url}/v1/models") as seen:
            assert seen.status == 200
        worker.kill()
        assert await leader.wait() == 1
        with pytest.raises(aiohttp.ClientError):
            response = await long
            response.raise_for_status()
            await response.read()


async def test_a_worker_ends_when_the_first_node_does(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 {LEADER}\n")
    port = free_port()
    around = {"SIM_HOSTS": str(hosts)}
    leader = await start("e2e.simulators.engine", *command("vllm", 0, port), environment=around)
    worker = await start("e2e.simulators.engine", *command("vllm", 1, port), environment=around)
    async with running(leader), running(worker):
        await first_line(leader)
        leader.kill()
        assert await worker.wait() == 1


async def test_a_worker_that_dies_before_all_have_met_may_come_again(tmp_path: Path) -> None:
    port, around = free_port(), {"SIM_HOSTS": str(tmp_path / "hosts")}
    Path(around["SIM_HOSTS"]).write_text(f"127.0.0.1 {LEADER}\n")
    four = [[*command("vllm", rank, port), "--nnodes", "4"] for rank in range(4)]
    leader = await start("e2e.simulators.engine", *four[0], environment=around)
    async with running(leader):
        dies = await connected(port)
        dies.write(b"1\n")
        dies.close()
        await dies.wait_closed()
        async with AsyncExitStack() as others:
            for line in four[1:]:
                worker = await start("e2e.simulators.engine", *line, environment=around)
                await others.enter_async_context(running(worker))
            assert "simulator of" in await first_line(leader)


async def test_sigterm_before_all_have_met_ends_a_waiting_leader() -> None:
    port = free_port()
    leader = await start("e2e.simulators.engine", *command("sglang", 0, port))
    async with running(leader):
        (await connected(port)).close()
        leader.terminate()
        assert await leader.wait() == 143
        assert leader.stderr is not None
        assert await leader.stderr.read() == b""
