"""Both engines' own pages, scraped by a real Prometheus, read back in one vocabulary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from e2e.cluster.controlplane import answers
from e2e.cluster.processes import Process, free_port, wait_until
from e2e.cluster.prometheus import find_prometheus
from spillway.observe.prometheus import MetricsUnavailable, Prometheus
from spillway.observe.traffic import Traffic, Windows, look
from tests.unit.simulators.running import chat, engine

WINDOWS = Windows(rate_seconds=10, token_seconds=10, stale_seconds=5)
SPEED = {"SIM_STREAM_TOKENS_PER_SECOND": "50", "SIM_DECODE_TOKENS_PER_SECOND": "100000"}
RUNNING, WAITING = 8, 4
ENGINES = {
    # Four data parallel ranks each, told by four series of vLLM's and, two tensor ranks a rank, by eight of SGLang's.
    "vllm": "vllm serve m --served-model-name glm-5 -dp 4 -ep --max-num-seqs 2 --max-num-queued-reqs 12",
    "sglang": "sglang serve --model-path m --served-model-name glm-5 --tp 8 --ep 8 --dp 4 --enable-dp-attention "
    "--enable-metrics --enable-metrics-for-all-schedulers --max-running-requests 8 --max-queued-requests 1",
}


@contextmanager
def scraping(directory: Path, targets: dict[str, str]) -> Iterator[str]:
    """The address of a Prometheus that scrapes these engines (address by name) every half second, with the labels of
    a PodMonitor, and one that is no replica of Spillway's under another name."""
    groups = [
        {
            "targets": [address],
            "labels": {"namespace": "chat", "pod": f"glm-5-{name}", "deployment": "glm-5", "variant": name},
        }
        for name, address in targets.items()
    ]
    groups.append({"targets": [targets["vllm"]], "labels": {"namespace": "chat", "pod": "stranger"}})
    page = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "engines", "static_configs": groups}],
    }
    configuration = directory / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(page))
    listen = f"127.0.0.1:{free_port()}"
    process = Process(
        "prometheus",
        [
            find_prometheus(),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={listen}",
            "--log.level=warn",
        ],
        directory / "prometheus.log",
    ).start()
    try:
        wait_until("prometheus", lambda: answers(f"http://{listen}/-/ready"), 30, process)
        yield f"http://{listen}"
    finally:
        process.stop()


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Prometheus]:
    prometheus = Prometheus(url)
    try:
        yield prometheus
    finally:
        prometheus.close()


async def until(prometheus: Prometheus, holds: Callable[[Traffic], bool]) -> Traffic:
    """The first traffic of which that is true."""
    async with asyncio.timeout(60):
        while True:
            if holds(found := await look(prometheus, WINDOWS)):
                return found
            await asyncio.sleep(0.2)


async def test_both_engines_load_in_one_vocabulary(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        urls = {
            name: (await stack.enter_async_context(engine(*command.split(), environment=SPEED))).url
            for name, command in ENGINES.items()
        }
        url = stack.enter_context(scraping(tmp_path, {name: at.removeprefix("http://") for name, at in urls.items()}))
        prometheus = await stack.enter_async_context(asking(url))
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def send(name: str) -> int:
            request = chat("hello", max_tokens=4000, min_tokens=4000)
            async with session.post(f"{urls[name]}/v1/chat/completions", json=request) as response:
                await response.read()
                return response.status

        pods = {f"chat/glm-5-{name}" for name in ENGINES}  # not the stranger, whose series have no deployment
        idle = await until(prometheus, lambda found: found.load.keys() == pods)
        assert {(pod.running, pod.waiting, pod.kv_use) for pod in idle.load.values()} == {(0, 0, 0.0)}

        async with asyncio.TaskGroup() as tasks:
            sent = [tasks.create_task(send(name)) for name in ENGINES for _ in range(RUNNING + WAITING)]
            try:
                busy = await until(
                    prometheus,
                    lambda found: all((pod.running, pod.waiting) == (RUNNING, WAITING) for pod in found.load.values()),
                )
                assert all(0 < pod.kv_use < 0.1 for pod in busy.load.values())
                # A rate is seen once a counter has risen between two scrapes.
                async with asyncio.timeout(60):
                    while not all(one.rejections_per_second > 0 for one in busy.rates["chat/glm-5"]):
                        assert {await send(name) for name in ENGINES} == {503}
                        await asyncio.sleep(0.3)
                        busy = await look(prometheus, WINDOWS)
            finally:
                for task in sent:
                    task.cancel()
        assert [one.variant for one in busy.rates["chat/glm-5"]] == ["sglang", "vllm"]
        for one in busy.rates["chat/glm-5"]:
            assert one.time_to_first_token_seconds is not None
            assert 0 < one.time_to_first_token_seconds < 2
            # 50 tokens/s a stream, in the buckets of either engine
            assert one.inter_token_latency_seconds is not None
            assert 0.01 <= one.inter_token_latency_seconds <= 0.06
            assert one.preemptions_per_second == 0
        vllm = busy.rates["chat/glm-5"][1]
        assert 0 < vllm.output_tokens_per_second < 1.5 * RUNNING * 50  # once for each rank, not four times

        await until(prometheus, lambda found: all(pod.running == 0 for pod in found.load.values()))


async def test_an_engine_that_is_gone_is_not_known_and_a_silent_prometheus_is_told(tmp_path: Path) -> None:
    async with engine(*ENGINES["vllm"].split()) as one:
        with scraping(tmp_path, {"vllm": one.url.removeprefix("http://")}) as url:
            async with asking(url) as prometheus:
                await until(prometheus, lambda found: found.load.keys() == {"chat/glm-5-vllm"})
                one.process.kill()
                await until(prometheus, lambda found: not found.load)
    async with asking(url) as prometheus:
        with pytest.raises(MetricsUnavailable, match=url):
            await look(prometheus, WINDOWS)
