"""
Crowds of real WebSocket clients in a room of the site, and the count of what reached each of them.

Knows the site by its paths and frames alone, no layer and no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.server import HOST
from tests.core.helpers import until, within

#: Seconds for whatever a crowd waits for, on a machine that does other things as well.
PATIENCE = 60.0


class Client:
    """One client: connected, in the room, and reading whatever comes."""

    def __init__(self, socket: ClientConnection, channel: str) -> None:
        self.channel = channel
        self.frames: list[dict[str, Any]] = []
        self._socket = socket
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def join(cls, port: int, path: str) -> Client:
        # Servers ping by themselves; compressing what is so small would take time from what is tested.
        socket = await connect(
            f"ws://{HOST}:{port}{path}", compression=None, ping_interval=None, open_timeout=PATIENCE, proxy=None
        )
        return cls(socket, json.loads(await within(socket.recv(), PATIENCE))["channel"])

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                self.frames.append(json.loads(frame))

    @property
    def closed(self) -> tuple[int | None, str | None]:
        """Code and reason with which the socket was closed."""
        return self._socket.close_code, self._socket.close_reason

    async def ended(self) -> bool:
        """Wait until the socket is closed."""
        await self._reader
        return True

    async def say(self, number: int) -> None:
        await self._socket.send(json.dumps({"say": number}))

    async def tell(self, channel: str, number: int) -> None:
        await self._socket.send(json.dumps({"tell": number, "channel": channel}))

    @property
    def connected(self) -> bool:
        return not self._reader.done()

    @property
    def said(self) -> dict[str, list[int]]:
        """What was said in the room, in the order in which it came, by who said it."""
        said = defaultdict(list)
        for frame in self.frames:
            if "said" in frame:
                said[frame["by"]].append(frame["said"])
        return dict(said)

    async def vanish(self) -> None:
        """Go away without a word, as a browser does whose machine is switched off."""
        self._socket.transport.abort()
        await within(self._reader, PATIENCE)

    async def leave(self) -> None:
        await self._socket.close()
        await within(self._reader, PATIENCE)


class Crowd:
    """Clients of one room."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients

    async def hear(self, frame: dict[str, Any]) -> None:
        """Wait until each of the clients has got this frame."""
        missing = self.clients

        def heard_by_all() -> bool:
            nonlocal missing
            missing = [client for client in missing if frame not in client.frames]
            for client in missing:
                assert client.connected, f"a client was disconnected: {client.frames[-3:]}"
            return not missing

        try:
            await until(heard_by_all, PATIENCE)
        except asyncio.TimeoutError:
            raise AssertionError(f"{len(missing)} of {len(self.clients)} did not get {frame}") from None

    async def talk(self, speakers: list[Client], words: int) -> None:
        """Let some say so many words all at once; everybody hears each word once, and each speaker's in order."""

        async def speak(client: Client) -> None:
            for number in range(words):
                await client.say(number)

        def heard(client: Client) -> bool:
            return len(client.frames) >= len(speakers) * words or not client.connected

        everything = {speaker.channel: list(range(words)) for speaker in speakers}
        await asyncio.gather(*map(speak, speakers))
        # If something is lost, what comes next says what.
        with contextlib.suppress(asyncio.TimeoutError):
            await until(lambda: all(map(heard, self.clients)), PATIENCE)
        # Neighbours are in different processes, if there are two.
        await self.hear_the_last_of(*self.clients[:2])
        self.have_heard(everything)

    def have_heard(self, said: dict[str, list[int]]) -> None:
        """Fail unless this, and nothing else, was said to each of the clients; they hear anew then."""
        for client in self.clients:
            heard = client.said
            speakers = [who for who in heard | said if heard.get(who) != said.get(who)]
            wrong = [f"of {who} {heard.get(who)} instead of {said.get(who)}" for who in speakers]
            assert not wrong, f"{client.channel} heard {', '.join(wrong)}"
            client.frames.clear()

    async def hear_the_last_of(self, *speakers: Client) -> None:
        """
        Have these clients say something more, and wait until everybody has got that.

        What their server processes sent before, and whatever of it would come twice, has come then.
        """
        for number, speaker in enumerate(speakers):
            await speaker.say(-number - 1)
        for number, speaker in enumerate(speakers):
            await self.hear({"said": -number - 1, "by": speaker.channel})
        for client in self.clients:
            client.frames = [frame for frame in client.frames if frame.get("said", 0) >= 0]


@contextlib.asynccontextmanager
async def crowd_of(count: int, ports: list[int], *paths: str) -> AsyncIterator[Crowd]:
    """Clients who join a room through these servers and paths in turn. Who is still there at the end leaves."""
    places = itertools.islice(itertools.cycle(itertools.product(paths, ports)), count)
    # Fewer at once than a server lets wait to be accepted.
    entrance = asyncio.Semaphore(40)

    async def join(port: int, path: str) -> Client:
        async with entrance:
            return await Client.join(port, path)

    joining = [asyncio.ensure_future(join(port, path)) for path, port in places]
    try:
        clients = await within(asyncio.gather(*joining), PATIENCE)
        yield Crowd(clients)
        await within(asyncio.gather(*(client.leave() for client in clients)), PATIENCE)
    finally:
        for task in joining:
            task.cancel()
        outcomes = await asyncio.gather(*joining, return_exceptions=True)
        for client in outcomes:
            if isinstance(client, Client) and client.connected:
                await client.vanish()
