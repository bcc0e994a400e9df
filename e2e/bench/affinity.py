"""`make bench-affinity`: what it is worth that a conversation keeps its replica. JSON in build/bench/affinity.json.

Conversations of several turns, streamed, through the real gateway to simulated vLLM engines with prefix caches of
their own: once with `balancing: PrefixAffinity`, once with `LeastRequest`, on fresh engines and the same seed. All
conversations share a system prompt; each has a first message of its own, and sends everything again at every turn.
Arrival and think times are the same in both; seconds depend on the machine as far as it is too slow to play the load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from e2e.bench.identities import issued
from spillway.gateway.ads import AdsServer
from spillway.gateway.desired import Deployment, Desired, Endpoint, SpillState

OUT = Path("build/bench/affinity.json")
ROOT = Path(__file__).resolve().parents[2]
NETWORK = "127.46.0"
SYSTEM_TOKENS, FIRST_TOKENS, TURN_TOKENS, OUTPUT_TOKENS = 1_000, 3_000, 200, 60
KV_CACHE_TOKENS = 150_000  # of one engine: a part of all conversations fits, not all of them
THINK_SECONDS = 1.0
START_SECONDS = 6.0
WAIT_SECONDS = 60.0
_GATEWAY = "import os; from spillway.gateway.process import run_gateway; run_gateway(os.environ)"
_METRIC = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)
_WORDS = ("the", "water", "rises", "behind", "the", "dam", "and", "the", "spillway", "takes", "the", "rest")


@dataclass
class Played:
    """What came of one run: seconds to the first token, and what each engine was asked for and found (tokens)."""

    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    failed: int = 0
    asked: list[float] = field(default_factory=list)
    found: list[float] = field(default_factory=list)

    def as_json(self, balancing: str) -> dict[str, Any]:
        waits = sorted(self.first + self.later)
        mean = statistics.fmean(self.asked)
        return {
            "balancing": balancing,
            "requests": len(waits),
            "failed": self.failed,
            "cached_token_share": round(sum(self.found) / sum(self.asked), 3),
            "ttft_p50_seconds": round(statistics.median(waits), 3),
            "ttft_p95_seconds": round(waits[int(0.95 * (len(waits) - 1))], 3),
            "ttft_mean_later_turns_seconds": round(statistics.fmean(self.later), 3),
            "busiest_engine_over_mean": round(max(self.asked) / mean, 2),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    wanted = parser().parse_args(arguments)
    rows = [asyncio.run(play(balancing, wanted)) for balancing in ("LeastRequest", "PrefixAffinity")]
    parameters = {name: value for name, value in vars(wanted).items() if name != "out"}
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(json.dumps({"parameters": parameters, "runs": rows}, indent=1) + "\n")
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |")
    print(f"\n{wanted.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="make bench-affinity", description=__doc__)
    made.add_argument("--engines", type=int, default=4)
    made.add_argument("--conversations", type=int, default=40)
    made.add_argument("--turns", type=int, default=6)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=OUT)
    return made


async def play(balancing: str, wanted: argparse.Namespace) -> dict[str, Any]:
    """One run on fresh engines."""
    addresses = [f"{NETWORK}.{20 + number}" for number in range(wanted.engines)]
    played = Played()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for address in addresses:
            await stack.enter_async_context(engine(address))
        await asyncio.gather(*(until(session, f"http://{address}:8000/health") for address in addresses))
        url = await stack.enter_async_context(gateway(directory, addresses, balancing == "PrefixAffinity"))
        await until(session, f"http://{NETWORK}.10:9902/ready")
        await until(
            session,
            f"http://{NETWORK}.10:9902/metrics",
            f'membership_healthy{{envoy_cluster_name="local|chat/glm-5"}} {len(addresses)}\n',
        )
        draws = [random.Random(f"{wanted.seed}/{number}") for number in range(wanted.conversations)]
        await asyncio.gather(*(converse(session, url, draw, wanted.turns, played) for draw in draws))
        for address in addresses:
            async with session.get(f"http://{address}:8000/metrics") as answer:
                counts = {name: float(value) for name, value in _METRIC.findall(await answer.text())}
            played.asked.append(counts["queries"])
            played.found.append(counts["hits"])
    return played.as_json(balancing)


async def converse(session: aiohttp.ClientSession, url: str, draw: random.Random, turns: int, played: Played) -> None:
    """One client: asks, reads the answer, thinks, asks again with all that was said."""
    await asyncio.sleep(draw.uniform(0, START_SECONDS))
    messages = [{"role": "system", "content": words(random.Random(0), SYSTEM_TOKENS)}]
    for turn in range(turns):
        text = words(draw, TURN_TOKENS if turn else FIRST_TOKENS)
        messages.append({"role": "user", "content": f"{text} [[out={OUTPUT_TOKENS}]]"})
        think = draw.expovariate(1 / THINK_SECONDS)
        began, said = time.monotonic(), ""
        body = {"model": "glm-5", "messages": messages, "stream": True}
        async with session.post(url, json=body, headers={"host": "glm-5.chat"}) as answer:
            if answer.status != 200:
                played.failed += 1
                return
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                [choice] = json.loads(line[6:])["choices"] or [{}]
                content = choice.get("delta", {}).get("content", "")
                if content and not said:
                    (played.later if turn else played.first).append(time.monotonic() - began)
                said += content
        messages.append({"role": "assistant", "content": said})
        await asyncio.sleep(think)


def words(draw: random.Random, tokens: int) -> str:
    """Text of so many simulated tokens, four bytes each."""
    text = " ".join(draw.choice(_WORDS) for _ in range(2 * tokens))
    return text[: tokens * 4]


@asynccontextmanager
async def engine(address: str) -> AsyncIterator[None]:
    command = f"vllm serve nvidia/GLM-5-NVFP4 --served-model-name glm-5 --host {address} --max-model-len 32768".split()
    environment = {"POD_IP": address, "SIM_KV_CACHE_TOKENS": str(KV_CACHE_TOKENS)}
    async with running([sys.executable, "-m", "e2e.simulators.engine", *command], environment):
        yield


@asynccontextmanager
async def gateway(directory: Path, addresses: Sequence[str], affinity: bool) -> AsyncIterator[str]:
    """The chat endpoint of a gateway with one deployment."""
    identity = issued(directory / "ads")
    ads = AdsServer(f"{NETWORK}.1", 18000, lambda: True, lambda: identity)
    await ads.start()
    glm = Deployment(
        "chat", "glm-5", "glm-5", "/health", tuple(Endpoint(a, 8000) for a in addresses), affinity=affinity
    )
    ads.publish(Desired((glm,), spill={glm.id: SpillState(False, 100_000)}))
    (directory / "keys").mkdir()
    environment = {
        "POD_NAME": "gateway-0",
        "POD_IP": f"{NETWORK}.10",
        "SPILLWAY_ADS_ADDRESS": f"{NETWORK}.1:18000",
        "SPILLWAY_BIND_ADDRESS": f"{NETWORK}.10",
        "SPILLWAY_RUN_DIRECTORY": str(directory / "run"),
        "SPILLWAY_KEYS_DIRECTORY": str(directory / "keys"),
        "SPILLWAY_ADS_CERTIFICATES_DIRECTORY": str(directory / "ads"),
    }
    try:
        async with running([sys.executable, "-c", _GATEWAY], environment):
            yield f"http://{NETWORK}.10:8080/v1/chat/completions"
    finally:
        await ads.stop()


@asynccontextmanager
async def running(command: Sequence[str], environment: dict[str, str]) -> AsyncIterator[None]:
    """A process for as long as the block takes."""
    path = f"{ROOT / 'operator'}{os.pathsep}{ROOT}"
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path, **environment}, stdout=quiet, stderr=quiet
    )
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(session: aiohttp.ClientSession, url: str, text: str = "") -> None:
    """Wait until a page is there, and has `text`."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200 and text in await answer.text():
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
