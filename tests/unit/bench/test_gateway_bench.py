"""The instruments of `make bench-gateway`: the engine and the clients against each other, and what is read of /proc."""

from __future__ import annotations

import asyncio
import os

import pytest

from e2e.bench import http_load
from e2e.bench.gateway import cpu_seconds, memory_bytes, table
from e2e.bench.http_load import CHUNKS, Address, answered, streamed
from e2e.bench.proxies import PAIR, desired
from e2e.cluster.processes import free_port


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> Address:
    monkeypatch.setattr(http_load, "CHUNK_SECONDS", 0.0)
    port = free_port()
    serving = asyncio.create_task(http_load.serve("127.0.0.1", port, None))
    while not serving.done():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0)
        else:
            writer.close()
            break
    return Address("127.0.0.1", port)


async def test_every_request_is_timed(engine: Address) -> None:
    times = await answered(engine, clients=4, requests=41)
    assert len(times) == 41
    assert min(times) > 0


async def test_every_event_is_counted(engine: Address) -> None:
    assert await streamed(engine, streams=7) == (7, 7 * (CHUNKS + 3))  # the end, the usage, and [DONE]


async def test_an_answer_other_than_200_is_no_result() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(RuntimeError, match=r"answered with HTTP/1\.1 503"):
            await answered(address, 1, 1)


def test_own_use_is_read() -> None:
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:
        sum(range(100_000))
    assert memory_bytes(os.getpid()) > 10e6
    assert cpu_seconds(0) == memory_bytes(0) == 0


@pytest.mark.parametrize(("size", "number"), [(1, 1), (2, 2), (100, 100), (1000, 1000)])
def test_each_size_has_a_way_to_a_replica_and_one_to_a_provider(size: int, number: int) -> None:
    found = desired(size)
    assert len({d.id for d in found.deployments}) == number
    assert found.deployments[0].chain == ()
    assert all(d.endpoints == () for d in found.deployments[1:2])
    assert found.spill.keys() == {d.id for d in found.deployments}
    assert all(PAIR in d.chain for d in found.deployments[1:])


def test_the_table_has_what_is_added_and_ratios() -> None:
    def row(name: str, ms: float, cpu: float) -> dict[str, object]:
        times = {f"{p}_ms_{n}": ms for p in ("p50", "p99") for n in (1, 32)}
        cost = {"cpu_us_per_request_32": cpu, "cpu_us_per_chunk": cpu / 2}
        return {"name": name, **times, **cost, "streams": 500, "streams_done": 499, "megabytes": 70.4}

    found = {
        "proxies": [row("direct", 1, 0), row("plain Envoy", 1.5, 100), row("other", 3, 250)],
        "sizes": [{"deployments": 1000, "seconds": 2.1, "megabytes": 289}],
    }
    lines = table(found)
    assert lines[2] == "| plain Envoy | 0.50, 0.50 | 0.50, 0.50 | 100 | 1.0 | 50 | 1.0 | 499 of 500 | 70 |"
    assert lines[3] == "| other | 2.00, 2.00 | 2.00, 2.00 | 250 | 2.5 | 125 | 2.5 | 499 of 500 | 70 |"
    assert lines[-1] == "| 1,000 | 2.10 | 289 |"
