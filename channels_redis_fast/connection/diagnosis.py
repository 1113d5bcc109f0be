"""
Why a server drops connections or stays silent before its first answer: it does or does not speak TLS, or it is in
protected mode.

Connects without a user and a password. Knows how servers greet a connection. Does not know who asks, nor why.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

from .resolver import resolve

#: How long a server has to send something unprompted, and how long a TLS handshake may take, in seconds.
WORD_TIMEOUT, HANDSHAKE_TIMEOUT = 0.25, 1.0


async def diagnose(host: str, port: int, tls: bool) -> str | None:
    """Return what is wrong and how to fix it, or None if nothing can be seen. ``tls``: whether we spoke TLS."""
    with contextlib.suppress(OSError, asyncio.TimeoutError, EOFError):
        if tls:
            if (await _word(host, port, b"PING\r\n"))[:1] in (b"+", b"-"):
                return "the server does not speak TLS on this port: write the host with redis://, or without 'ssl'"
            return None
        word = await _word(host, port)
        if word.startswith(b"-DENIED"):
            return (
                "the server is in protected mode: it has no password, and takes connections from its own machine "
                "only. Give it one (requirepass) and put that into the host, or turn protected-mode off where nobody "
                "else can reach it"
            )
        if not word and await _speaks_tls(host, port):
            return "the server speaks TLS on this port: write the host with rediss://, or with 'ssl': True"
    return None


async def _word(host: str, port: int, said: bytes = b"") -> bytes:
    """Return what a server sends unprompted, or in reply to a line."""
    async with _opened(host, port, None) as (reader, writer):
        writer.write(said)
        with contextlib.suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(reader.read(1000), WORD_TIMEOUT)
        return b""


async def _speaks_tls(host: str, port: int) -> bool:
    # Nothing secret is sent.
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    try:
        async with _opened(host, port, anybody):
            return True
    except ssl.SSLError as error:
        # The server wants a certificate or a newer version. The absence of TLS has its own error name.
        return "WRONG_VERSION_NUMBER" not in str(error)


@contextlib.asynccontextmanager
async def _opened(host: str, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[Any]:
    (address, *_) = await resolve(host, port)
    opening = asyncio.open_connection(address, port, ssl=tls, server_hostname=host if tls else None)
    reader, writer = await asyncio.wait_for(opening, HANDSHAKE_TIMEOUT)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
