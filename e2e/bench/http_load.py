"""The two ends of a gateway's benchmark: an engine that costs next to nothing, and clients that time each answer.

Both speak just enough HTTP/1.1, on bare sockets: what they cost must not hide what is between them.
`python -m e2e.bench.http_load ADDRESS PORT [CERTIFICATE KEY]` is the engine.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

CHUNKS, CHUNK_SECONDS = 50, 0.1
"""Of each stream: how many events, and the time between two."""

_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
_MESSAGE = {"role": "assistant", "content": "x" * 400}
_ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "glm-5",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
).encode()
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "glm-5"}


def _event(choices: list[object], **fields: object) -> bytes:
    data = f"data: {json.dumps({**_EVENT, 'choices': choices, **fields})}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


_TOKEN = _event([{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
_LAST = _event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + _event([], usage=_USAGE)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def serve(address: str, port: int, tls: ssl.SSLContext | None) -> None:
    """The engine: `/health` and anything else by GET, an answer or a stream by POST."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                if b'"stream":true' in body.replace(b" ", b""):
                    await _stream(writer)
                else:
                    writer.write(_HEAD % len(_ANSWER) + _ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, address, port, ssl=tls, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


async def _stream(writer: asyncio.StreamWriter) -> None:
    writer.write(_STREAM_HEAD)
    for _ in range(CHUNKS):
        writer.write(_TOKEN)
        await asyncio.sleep(CHUNK_SECONDS)
    writer.write(_LAST + _END)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@dataclass(frozen=True)
class Address:
    """Where requests go, and what they must say to get through."""

    host: str
    port: int
    authority: str = "glm-5.chat"
    key: str = "sk-bench"

    def request(self, stream: bool) -> bytes:
        """A chat request of about 1 kB."""
        prompt = "word " * 160
        body = json.dumps({"model": "glm-5", "stream": stream, "messages": [{"role": "user", "content": prompt}]})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self.authority}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()


async def answered(to: Address, clients: int, requests: int) -> list[float]:
    """Seconds that each of so many requests took, by so many clients with a connection each. Raises RuntimeError for an
    answer other than 200."""
    left, found = iter(range(requests)), []
    message = to.request(stream=False)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(to.host, to.port)
        for _ in left:
            began = time.perf_counter()
            writer.write(message)
            await _answer(reader)
            found.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered with {head.splitlines()[0].decode()}")
    if b"transfer-encoding: chunked" not in head.lower():
        await reader.readexactly(_length(head))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readuntil(b"\r\n")


async def streamed(to: Address, streams: int) -> tuple[int, int]:
    """(streams that ended as they should, events that came) of so many streams at once."""
    message = to.request(stream=True)

    async def one() -> tuple[int, int]:
        reader, writer = await asyncio.open_connection(to.host, to.port)
        writer.write(message)
        text = bytearray()
        while not text.endswith(b"0\r\n\r\n"):
            part = await reader.read(65536)
            if not part:
                break
            text += part
        writer.close()
        return int(b"data: [DONE]" in text and text.startswith(b"HTTP/1.1 200")), text.count(b"data: ")

    results = await asyncio.gather(*(one() for _ in range(streams)), return_exceptions=True)
    good = [result for result in results if isinstance(result, tuple)]
    return sum(done for done, _ in good), sum(events for _, events in good)


def main(arguments: Sequence[str]) -> None:
    address, port, *files = arguments
    tls = None
    if files:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*files)
    asyncio.run(serve(address, int(port), tls))


if __name__ == "__main__":
    main(sys.argv[1:])
