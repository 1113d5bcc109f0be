"""
One scan for all viewers: each layer of this process is surveyed while somebody asks, and the result is shared.

Runs in the package's I/O thread, so that requests and sockets of all threads and event loops share one scan, and no
event loop of the site waits for it. Knows nothing of requests.

Rules kept here:

- A layer is surveyed at most once every ``INTERVAL``, and for at most a tenth of the time: a long scan is followed by a
  longer pause. Counters are in this process' own memory and come with every frame.
- A server that does not answer delays neither the frames nor the scans of other layers.
- While nobody asks, nothing runs, and after ``IDLE`` the connections are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import os
import socket
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from channels.layers import channel_layers

from ..apps import read_settings
from ..base import RedisLayer
from ..survey.line import Line
from ..survey.picture import take_picture
from ..survey.servers import are_current, lines
from ..sync import hub
from .frames import describe

logger = logging.getLogger("channels_redis_fast")

#: The minimum number of seconds between two frames, and between two looks at a layer.
INTERVAL = 1.0

#: The minimum pause after a look, as a multiple of the time that the look took.
PAUSE = 9

#: Seconds after the last request until the connections are closed.
IDLE = 5.0

#: How many seconds a thread waits for a frame. One comes each second, whatever the servers do.
PATIENCE = 10.0

#: What is shown of a site: its layers by alias, or for an alias the reason why there is no layer.
Layers = Mapping[str, Any]


class Frame(NamedTuple):
    """What can be seen at one moment: JSON, and the frame's number in this process."""

    number: int
    text: str


async def next_frame(after: int) -> Frame:
    """Return the newest frame as soon as its number is higher than ``after``. For any event loop."""
    return await asyncio.wrap_future(_ask(after))


def current_frame() -> Frame:
    """
    Return a frame that is not older than ``INTERVAL``. For threads; it waits for at most ``INTERVAL`` and a look.

    Raises ``RuntimeError`` if this process cannot have an I/O thread, and when the process ends.
    """
    return _ask(0).result(PATIENCE)


def _ask(after: int) -> Future[Frame]:
    # In the caller's thread: layers are created where the site would create them.
    layers = _site_layers()
    current = hub.current()
    watch = _watches.get(current)
    if watch is None:
        watch = _watches.setdefault(current, Watch(current.loop))
    answer: Future[Frame] = Future()

    def done(call: hub.Call) -> None:
        if not answer.set_running_or_notify_cancel():
            with contextlib.suppress(Exception):
                call.result()
            return
        try:
            answer.set_result(call.result())
        except BaseException as error:
            answer.set_exception(error)

    # Without the caller's context: work that is started for one caller is for all.
    call = contextvars.Context().run(current.call, lambda: watch.frame(layers, after), done)
    answer.add_done_callback(lambda answer: call.cancel() if answer.cancelled() else None)
    return answer


def _site_layers() -> Layers:
    layers: dict[str, Any] = {}
    for alias in channel_layers.configs:
        try:
            layers[alias] = channel_layers[alias]
        except Exception as error:
            # Any error that a backend raises for its options. With another package's backend, the text may contain
            # anything.
            layers[alias] = f"{type(error).__name__} when the layer is made; manage.py check says more."
    return layers


class Watch:
    """What this process has seen. All of it belongs to the hub's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._looks: dict[str, Look] = {}
        self._frame = Frame(0, "")
        self._made_at = -INTERVAL
        self._due = 0.0
        self._coming: asyncio.Task[None] | None = None
        #: How many callers wait for the frame that is coming.
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None
        self._process = f"{socket.gethostname()}:{os.getpid()}"

    async def frame(self, layers: Layers, after: int) -> Frame:
        """Return the newest frame once its number is higher than ``after`` and it is no older than ``INTERVAL``."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(IDLE, self._rest)
        while self._frame.number <= after or self._loop.time() - self._made_at >= INTERVAL:
            if self._coming is None:
                self._coming = self._loop.create_task(self._make(layers))
            coming = self._coming
            self._waiting += 1
            try:
                await asyncio.shield(coming)
            finally:
                self._waiting -= 1
                if coming is self._coming and (coming.done() or not self._waiting):
                    self._coming = None
                    coming.cancel()
        return self._frame

    async def _make(self, layers: Layers) -> None:
        await asyncio.sleep(self._due - self._loop.time())
        self._due = self._loop.time() + INTERVAL
        for alias in set(self._looks) - set(layers):
            self._looks.pop(alias).rest()
        for alias, layer in layers.items():
            look = self._looks.get(alias)
            if look is None or look.layer is not layer:
                if look is not None:
                    look.rest()
                look = self._looks[alias] = Look(alias, layer, self._loop)
            look.begin()
        running = [look.task for look in self._looks.values() if look.task is not None]
        if running:
            await asyncio.wait(running, timeout=INTERVAL)
        content = {
            "at": time.time(),
            "interval": INTERVAL,
            "process": self._process,
            "layers": [look.as_dict() for look in self._looks.values()],
        }
        # One text for all viewers.
        self._frame = Frame(self._frame.number + 1, json.dumps(content, separators=(",", ":")))
        self._made_at = self._loop.time()

    def _rest(self) -> None:
        """Called when nobody has asked for a while."""
        self._idle = None
        if self._waiting:
            self._idle = self._loop.call_later(IDLE, self._rest)
            return
        for look in self._looks.values():
            look.rest()


class Look:
    """One layer: the connections used to look at it, and the last picture of it."""

    def __init__(self, alias: str, layer: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.layer = layer
        #: The look that is in progress.
        self.task: asyncio.Task[None] | None = None
        self._alias = alias
        self._loop = loop
        self._due = 0.0
        self._picture: dict[str, Any] | None = None
        self._error: str | None = layer if isinstance(layer, str) else None
        self._stack = contextlib.AsyncExitStack()
        self._lines: list[Line] = []
        self._closing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin a look, if one is due and none is in progress."""
        if self.task is None and isinstance(self.layer, RedisLayer) and self._loop.time() >= self._due:
            self.task = self._loop.create_task(self._look(self.layer))

    def rest(self) -> None:
        """End the look that is in progress, and close the connections."""
        if self.task is not None:
            self.task.cancel()
        elif self._lines:
            self._closing = self._loop.create_task(self._close())

    def as_dict(self) -> dict[str, Any]:
        """Return what is shown of the layer."""
        kind = type(self.layer)
        shown: dict[str, Any] = {"alias": self._alias, "error": self._error, "picture": self._picture}
        if isinstance(self.layer, RedisLayer):
            shown |= {"kind": self.layer.layer_name, "prefix": self.layer.prefix, "stats": self.layer.stats()}
        elif self._error is None:
            shown["backend"] = f"{kind.__module__}.{kind.__qualname__}"
        return shown

    async def _look(self, layer: RedisLayer) -> None:
        started = self._loop.time()
        self._due = started + INTERVAL
        try:
            if self._closing is not None:
                await self._closing
            if self._lines and not await are_current(self._lines):
                await self._close()
            if not self._lines:
                self._lines = await self._stack.enter_async_context(lines(layer, "live"))
            picture = await take_picture(self._alias, layer, self._lines, read_settings()["LIVE_MAX_KEYS"])
            seconds = self._loop.time() - started
            self._picture, self._error = describe(picture, seconds), None
            self._due = max(self._due, self._loop.time() + PAUSE * seconds)
        except asyncio.CancelledError:
            await self._close()
            raise
        except Exception as error:
            # Not an error of a server, which is in the picture. A site's own serializer or host may raise any text.
            self._error = f"{type(error).__name__} while looking; the log of this process has more."
            logger.warning("The live page cannot read channel layer %r", self._alias, exc_info=True)
            await self._close()
        finally:
            self.task = None

    async def _close(self) -> None:
        self._lines = []
        await self._stack.aclose()


#: By hub. A forked child has a hub of its own, and does nothing with its parent's.
_watches: weakref.WeakKeyDictionary[hub.Hub, Watch] = weakref.WeakKeyDictionary()
