"""`make bench-gateway`: what the gateway adds to a request, against a plain Envoy and others. build/bench/gateway.json.

Every proxy has one worker, the same engine, the same clients and the same requests, in interleaved rounds of one run:
trust the ratios and the CPU per request, not the milliseconds, which are the machine's. There is no randomness.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from e2e.bench import proxies
from e2e.bench.http_load import Address, answered, streamed
from e2e.bench.proxies import Proxy, Spillway

OUT = Path("build/bench/gateway.json")
CLIENTS = (1, 32)
SIZES = (1, 100, 1000)
PLAIN = "plain Envoy"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench-gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3000, help="of each round, proxy and number of clients")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--no-others", action="store_true", help="without LiteLLM and vllm-router")
    parser.add_argument("--out", type=Path, default=OUT)
    wanted = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what it started, too
    programs = None if wanted.no_others else proxies.environment_of_others()
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as directory:
        found = asyncio.run(measure(Path(directory), wanted, programs))
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    wanted.out.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(table(found)))
    print(f"\n{wanted.out}")
    return 0


async def measure(directory: Path, wanted: argparse.Namespace, programs: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "load": os.getloadavg()},
        "settings": {"rounds": wanted.rounds, "requests": wanted.requests, "streams": wanted.streams},
    }
    async with proxies.engines(directory):
        spillway = Spillway(directory)
        async with spillway.running() as pid:
            found["sizes"] = [await at_size(spillway, pid, size) for size in SIZES]
        spillway = Spillway(directory)
        async with AsyncExitStack() as stack:
            pid = await stack.enter_async_context(spillway.running())
            await spillway.publish(2)
            await spillway.serving()
            local = Address(proxies.GATEWAY, 8080)
            tested = [
                Proxy("direct", 0, Address(proxies.ENGINE, proxies.ENGINE_PORT)),
                await stack.enter_async_context(proxies.plain_envoy(directory)),
                Proxy("Spillway, to a replica", pid, local),
                Proxy("Spillway, to a provider (TLS)", pid, replace(local, authority="spilled.chat")),
            ]
            for start in (proxies.vllm_router, proxies.litellm):
                if programs is None:
                    break
                try:
                    other = await stack.enter_async_context(start(programs, directory))
                    await answered(other.to, 1, 1)
                    tested.append(other)
                except (RuntimeError, TimeoutError, OSError) as error:
                    print(f"{start.__name__} is left out: {error or type(error).__name__}", file=sys.stderr, flush=True)
            renewing = asyncio.create_task(_renew(spillway))
            found["proxies"] = await rounds(tested, wanted)
            renewing.cancel()
    return found


async def _renew(spillway: Spillway) -> None:
    while True:
        await spillway.ads.renew()
        await asyncio.sleep(5)


async def at_size(spillway: Spillway, pid: int, size: int) -> dict[str, Any]:
    """Memory and the time from publishing to the gateway's last acknowledgement, from the size before."""
    began = time.monotonic()
    await spillway.publish(size)
    seconds = time.monotonic() - began
    return {"deployments": size, "seconds": round(seconds, 3), "megabytes": round(memory_bytes(pid) / 1e6)}


async def rounds(tested: Sequence[Proxy], wanted: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over the rounds."""
    samples: dict[str, list[dict[str, float]]] = {proxy.name: [] for proxy in tested}
    for proxy in tested:
        await answered(proxy.to, 4, 40)  # warm
    for _ in range(wanted.rounds):
        for proxy in tested:
            samples[proxy.name].append(await one_round(proxy, wanted))
    return [
        {"name": name, **{key: statistics.median(sample[key] for sample in taken) for key in taken[0]}}
        for name, taken in samples.items()
    ]


async def one_round(proxy: Proxy, wanted: argparse.Namespace) -> dict[str, float]:
    requests = wanted.requests // 20 if proxy.name == "LiteLLM" else wanted.requests  # it takes so much longer
    streams = wanted.streams // 10 if proxy.name == "LiteLLM" else wanted.streams
    found: dict[str, float] = {}
    for clients in CLIENTS:
        before, began = cpu_seconds(proxy.pid), time.monotonic()
        times = sorted(await answered(proxy.to, clients, requests))
        spent = cpu_seconds(proxy.pid) - before
        found[f"p50_ms_{clients}"] = times[len(times) // 2] * 1e3
        found[f"p99_ms_{clients}"] = times[len(times) * 99 // 100] * 1e3
        found[f"per_second_{clients}"] = requests / (time.monotonic() - began)
        found[f"cpu_us_per_request_{clients}"] = spent / requests * 1e6
    before = cpu_seconds(proxy.pid)
    done, events = await streamed(proxy.to, streams)
    found["cpu_us_per_chunk"] = (cpu_seconds(proxy.pid) - before) / max(events, 1) * 1e6
    found["streams"], found["streams_done"] = streams, done
    found["megabytes"] = memory_bytes(proxy.pid) / 1e6
    return found


def _family(pid: int) -> list[int]:
    """The process and what it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children; 0 for none."""
    total = 0.0
    for one in _family(pid) if pid else ():
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def memory_bytes(pid: int) -> int:
    """Resident memory of a process and its children; 0 for none."""
    return sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE for one in (_family(pid) if pid else ()))


def table(found: dict[str, Any]) -> list[str]:
    """Markdown: added times are against `direct` of the same run, CPU against the plain Envoy."""
    measured = {row["name"]: row for row in found["proxies"]}
    direct, plain = measured["direct"], measured[PLAIN]
    lines = [
        "| through | added p50, p99 of 1 client, ms | of 32 clients, ms | CPU per request, µs | × plain Envoy "
        "| CPU per SSE chunk, µs | × plain Envoy | streams done | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in measured.items():
        if name == "direct":
            continue
        added = [
            f"{row[f'p50_ms_{n}'] - direct[f'p50_ms_{n}']:.2f}, {row[f'p99_ms_{n}'] - direct[f'p99_ms_{n}']:.2f}"
            for n in CLIENTS
        ]
        request, chunk = row["cpu_us_per_request_32"], row["cpu_us_per_chunk"]
        lines.append(
            f"| {name} | {added[0]} | {added[1]} | {request:.0f} | {request / plain['cpu_us_per_request_32']:.1f} "
            f"| {chunk:.0f} | {chunk / plain['cpu_us_per_chunk']:.1f} "
            f"| {row['streams_done']:.0f} of {row['streams']:.0f} | {row['megabytes']:.0f} |"
        )
    lines += ["", "| deployments | config applied in, s | memory, MB |", "|---|---|---|"]
    lines += [f"| {row['deployments']:,} | {row['seconds']:.2f} | {row['megabytes']} |" for row in found["sizes"]]
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
