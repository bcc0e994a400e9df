"""A provider that is gone without a word: no limit that could cut a slow answer finds it, but the kernel does."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket

from spillway.gateway.desired import Desired
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import (
    PROVIDER_PORT,
    Rig,
    deployment,
    egress,
    eventually,
    provider,
    spill,
)

ZAI, DEEP = ("zai", "glm-5.1"), ("deep", "zai-org/GLM-5")
ID = "chat/glm-5"
PIDFD_GETFD = 438


async def two(rig: Rig) -> tuple[Fake, Fake]:
    """A deployment with two providers."""
    zai, first = await rig.fake("zai", PROVIDER_PORT)
    deep, second = await rig.fake("deep", PROVIDER_PORT)
    for key in ("zai", "deep"):
        (rig.directory / "keys" / key).write_text("sk")
    providers = (provider("zai", first), provider("deep", second))
    await rig.publish(
        Desired((deployment(chain=(ZAI, DEEP)),), providers, (egress(*ZAI), egress(*DEEP)), {ID: spill(ZAI, DEEP)})
    )
    await rig.start_envoy()
    return zai, deep


def sockets_to(pid: int, address: str, port: int) -> list[socket.socket]:
    """Copies of the sockets of a process that are connected to an address: what the kernel was told of them."""
    libc, found = ctypes.CDLL(None, use_errno=True), []
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
            copy = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            one = socket.socket(fileno=copy)
            try:
                there = one.getpeername()
            except OSError:
                there = None
            if there == (address, port):
                found.append(one)
            else:
                one.close()
    finally:
        os.close(pidfd)
    return found


async def test_the_kernel_ends_a_connection_whose_other_end_is_gone(rig: Rig) -> None:
    """Within a minute, by probes while it waits, and by the time that what was sent may stay unacknowledged."""
    zai, deep = await two(rig)
    zai.hold.clear()
    waiting = asyncio.create_task(rig.post())
    await zai.until(lambda: zai.open_requests == 1)
    assert rig.process is not None
    [one] = sockets_to(rig.process.pid, rig.published.providers[0].hostname, PROVIDER_PORT)
    with one:
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, probes = (
            one.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert (idle, interval, probes) == (30, 10, 3)
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        await asyncio.sleep(0.4)  # who breaks off at once has computed nothing
        # As the kernel does after these: the connection ends with an error.
        one.shutdown(socket.SHUT_RDWR)
    answer = await waiting
    assert (answer.status, answer.served_by) == (200, "deep")
    assert len(deep.seen) == 1

    async def counted() -> bool:
        reading = await rig.reading()
        outcomes = {s.outcome: s.requests for s in reading.samples if s.provider == "zai"}
        return outcomes == {"unanswered": 1} and reading.errors == {(*ZAI, "unavailable"): 1}

    await eventually(counted, "it may be billed, and is the provider's fault")
