"""Engine processes on several nodes that are one engine: they meet before they load, and fall together.

The first node listens where the others are told to look for it (`--master-addr`, `--data-parallel-address`,
`--dist-init-addr`), as torch's rendezvous does; once all ranks are there, every open connection means that its process
lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from e2e.simulators.engine.settings import Group

RENDEZVOUS_SECONDS = 600.0  # torch.distributed's default timeout
RETRY_SECONDS = 0.2
_GO = b"go\n"


class RendezvousFailed(Exception):
    """Not all ranks came in time; the engines exit."""


class Membership:
    """One process's place in the group."""

    def __init__(self, group: Group, bind_address: str, hosts: Path | None) -> None:
        self.group, self._bind_address, self._hosts = group, bind_address, hosts
        self.lost = asyncio.Event()  # another process of the group has gone
        self._members: dict[int, asyncio.StreamWriter] = {}
        self._complete = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._arrivals: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._watching: asyncio.Task[None] | None = None

    async def meet(self) -> None:
        """Returns when all ranks are there. Raises RendezvousFailed."""
        try:
            async with asyncio.timeout(RENDEZVOUS_SECONDS):
                await (self._gather() if self.group.rank == 0 else self._join())
        except TimeoutError:
            raise RendezvousFailed(
                f"rank {self.group.rank}: not all of {self.group.nodes} nodes met at "
                f"{self.group.host}:{self.group.port} within {RENDEZVOUS_SECONDS:.0f} s"
            ) from None

    async def leave(self) -> None:
        """Close every connection: the others notice."""
        if self._server:
            self._server.close()
        for writer in (*self._members.values(), *self._arrivals.values()):
            writer.close()
        await asyncio.gather(*self._arrivals, *([self._watching] if self._watching else []))

    async def _gather(self) -> None:
        self._server = await asyncio.start_server(self._arrived, self._bind_address, self.group.port)
        await self._complete.wait()
        for writer in self._members.values():
            writer.write(_GO)

    async def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One other rank, from its arrival to its end; before all are there it may go and come back."""
        task = asyncio.current_task()
        assert task is not None
        self._arrivals[task] = writer
        try:
            if (word := await reader.readline()).strip().isdigit():
                await self._stays(int(word), reader, writer)
        finally:
            del self._arrivals[task]
            writer.close()

    async def _stays(self, rank: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._members[rank] = writer
        if len(self._members) == self.group.nodes - 1:
            self._complete.set()
        await _until_closed(reader)
        if self._complete.is_set():
            self.lost.set()
        elif self._members.get(rank) is writer:
            del self._members[rank]

    async def _join(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(self._address(), self.group.port)
                self._members[0] = writer
                writer.write(b"%d\n" % self.group.rank)
                if await reader.readline() == _GO:
                    self._watching = asyncio.create_task(self._watch(reader))
                    return
                writer.close()
            await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        await _until_closed(reader)
        self.lost.set()

    def _address(self) -> str:
        """Where the leader's name leads to: the file of hosts in place of the cluster's DNS, if there is one."""
        if self._hosts and self._hosts.exists():
            for line in self._hosts.read_text().splitlines():
                address, _, name = line.partition(" ")
                if name == self.group.host:
                    return address
        return self.group.host


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1024):
            pass
