"""TLS for clients: HTTP/2 by ALPN, HTTP/1.1 otherwise, and a renewed certificate without a restart."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp

from e2e.cluster.volumes import publish
from spillway.gateway.desired import Desired
from tests.integration.gateway.certificates import server_context
from tests.integration.gateway.rig import MESSAGES, Rig, deployment, eventually

NAME = "models.example.com"


def renew(rig: Rig) -> bytes:
    """Bring the gateway a certificate by a new CA, as the kubelet does; returns that CA."""
    _, authority = server_context(rig.directory, NAME)
    pem = (rig.directory / f"{NAME}.pem").read_bytes()
    end = b"-----END PRIVATE KEY-----\n"
    key, _, certificate = pem.partition(end)
    (rig.directory / "tls").mkdir(exist_ok=True)
    publish(rig.directory / "tls", {"tls.crt": certificate, "tls.key": key + end})
    return authority


def believing(authority: bytes, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.decode())
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def serve(rig: Rig) -> bytes:
    _, address = await rig.fake("engine")
    authority = renew(rig)
    await rig.publish(Desired((deployment(address),)))
    await rig.start_envoy(SPILLWAY_TLS_DIRECTORY=str(rig.directory / "tls"))
    await rig.healthy("local|chat/glm-5", 1)
    return authority


async def negotiated(rig: Rig, context: ssl.SSLContext) -> tuple[str | None, str | None]:
    """(protocol by ALPN, version of TLS)"""
    _, writer = await asyncio.open_connection(f"{rig.subnet}.10", 8443, ssl=context, server_hostname=NAME)
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    chosen = found.selected_alpn_protocol(), found.version()
    writer.close()
    return chosen


async def test_clients_choose_the_protocol_and_plain_http_goes_on(rig: Rig) -> None:
    authority = await serve(rig)
    assert await negotiated(rig, believing(authority, "h2", "http/1.1")) == ("h2", "TLSv1.3")
    assert await negotiated(rig, believing(authority, "http/1.1")) == ("http/1.1", "TLSv1.3")
    assert (await negotiated(rig, believing(authority)))[0] is None
    assert (await rig.post()).status == 200
    answer = await curl(rig, authority, "--http2")
    assert answer.splitlines()[0].startswith("HTTP/2 200")
    assert "x-spillway-served-by: local" in answer
    assert (await curl(rig, authority, "--http1.1")).startswith("HTTP/1.1 200")


async def test_a_renewed_certificate_is_shown_without_a_restart(rig: Rig) -> None:
    old = await serve(rig)
    engine = rig.fakes[0]
    engine.hold.clear()
    url = f"https://{rig.subnet}.10:8443/v1/chat/completions"
    body = {"model": "glm-5", "stream": True, **MESSAGES}
    headers = {"host": "glm-5.chat"}
    context = believing(old)
    context.check_hostname = False  # it is asked by its address
    async with rig.session.post(url, json=body, headers=headers, ssl=context) as stream:
        assert stream.status == 200
        new = renew(rig)

        async def shown() -> bool:
            try:
                return (await negotiated(rig, believing(new, "h2")))[0] == "h2"
            except ssl.SSLCertVerificationError:
                return False

        await eventually(shown, "the new certificate is shown")
        engine.hold.set()
        assert "[DONE]" in await stream.text()
    with_old = await asyncio.gather(negotiated(rig, believing(old)), return_exceptions=True)
    assert isinstance(with_old[0], ssl.SSLCertVerificationError)


async def test_what_is_no_tls_is_not_answered(rig: Rig) -> None:
    await serve(rig)
    try:
        async with rig.session.get(f"http://{rig.subnet}.10:8443/v1/models") as answer:
            raise AssertionError(f"answered with {answer.status}")
    except aiohttp.ClientError:
        pass


async def test_without_a_certificate_nobody_listens(rig: Rig) -> None:
    await rig.publish(Desired())
    await rig.start_envoy()
    refused = await asyncio.gather(asyncio.open_connection(f"{rig.subnet}.10", 8443), return_exceptions=True)
    assert isinstance(refused[0], ConnectionRefusedError)


async def curl(rig: Rig, authority: bytes, *options: str) -> str:
    """Status line, headers and body of one request by a client that speaks HTTP/2."""
    file = Path(rig.directory, "authority.pem")
    file.write_bytes(authority)
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-i", *options, "--cacert", str(file), "--connect-to", f"{NAME}:443:{rig.subnet}.10:8443",
        f"https://{NAME}/v1/chat/completions", "-H", "Host: glm-5.chat", "-H", "content-type: application/json",
        "-d", '{"model": "glm-5", "messages": [{"role": "user", "content": "hello"}]}',
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()
