"""The operator as a process of its own, on a real API server."""

from __future__ import annotations

import json
import os
import signal
import sys
from asyncio import subprocess, wait_for
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import leaderworkersets
from spillway.controller.lease import NAME
from tests.integration.conftest import Kube as Server

from .conftest import Place

ROOT = Path(__file__).parents[3]
Line = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def kinds(kube: Server) -> None:
    """The four kinds on the API server."""
    applied = kube.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    found = [f"--filename={p}" for p in sorted((ROOT / "crds").glob("*.spillway.dev.yaml"))]
    assert kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", *found).returncode == 0


@asynccontextmanager
async def operator(place: Place, name: str, *flags: str) -> AsyncIterator[subprocess.Process]:
    """A process that is killed at the end, if it still runs. Of flags given twice, the later counts."""
    arguments = ["--namespace", place.namespace, "--pod-name", name, "--bind-address", "127.0.0.1"]
    arguments += ["--ads-port", "0", "--health-port", "0", "--prometheus-url", "http://127.0.0.1:1"]
    process = await subprocess.create_subprocess_exec(
        str(Path(sys.prefix, "bin", "spillway")),
        "operator",
        *arguments,
        *flags,
        env={**os.environ, "KUBECONFIG": str(place.server.kubeconfig)},
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line(process: subprocess.Process, message: str) -> Line:
    """The next log line with that message."""
    assert process.stderr is not None
    seen = []
    async for text in process.stderr:
        seen.append(text.decode())
        if text.startswith(b"{") and json.loads(text)["message"] == message:
            found: Line = json.loads(text)
            return found
    raise AssertionError(f"no {message!r} in:\n{''.join(seen)}")


def holder(place: Place) -> str:
    done = place.server.kubectl("get", "lease", NAME, "-n", place.namespace, "-o", "json")
    return str(json.loads(done.stdout)["spec"].get("holderIdentity"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_clean_end_gives_the_lease_back_and_the_next_one_leads(place: Place, number: signal.Signals) -> None:
    async with operator(place, "first") as first:
        await wait_for(line(first, "leading"), 60)
        # Its watches run, so kopf has set its own signal handlers too.
        await wait_for(line(first, "no memory of earlier decisions: what runs now counts"), 60)
        first.send_signal(number)
        await wait_for(line(first, "stopping"), 60)
        assert first.stderr is not None
        rest = (await wait_for(first.stderr.read(), 60)).decode()
        assert await wait_for(first.wait(), 60) == 0, rest
        assert "Traceback" not in rest
    assert holder(place) == ""
    async with operator(place, "second") as second:
        await wait_for(line(second, "leading"), 60)
    assert holder(place) == "second"


async def test_who_loses_the_lease_ends_and_leaves_it_alone(place: Place) -> None:
    async with operator(place, "first") as first:
        await wait_for(line(first, "leading"), 60)
        patch = json.dumps({"spec": {"holderIdentity": "thief"}})
        place.server.kubectl("patch", "lease", NAME, "-n", place.namespace, "--type=merge", "-p", patch)
        await wait_for(line(first, "leadership was lost: ending"), 60)
        assert await wait_for(first.wait(), 60) == 1
    assert holder(place) == "thief"


async def test_leader_worker_sets_are_watched_from_when_the_cluster_has_them(place: Place) -> None:
    released = json.loads(leaderworkersets.find_or_build().manifests.read_text())
    (kind,) = [obj for obj in released if obj["metadata"]["name"].startswith("leaderworkersets.")]
    del kind["spec"]["conversion"]  # there is one version, and no webhook here
    async with operator(place, "first") as first:
        await wait_for(line(first, "leading"), 60)
        created = place.server.kubectl("create", "-f", "-", input=json.dumps(kind))
        assert created.returncode == 0, created.stderr
        await wait_for(line(first, "the cluster has leaderworkersets"), 60)
        place.server.kubectl("delete", "crd", kind["metadata"]["name"])
        # Without them it starts anew; what it would have to do with one is no longer known.
        assert await wait_for(first.wait(), 60) == 1
