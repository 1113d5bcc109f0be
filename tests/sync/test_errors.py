"""What a call raises, and what it sees, is the same whichever way it takes."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from bench.server import Server, free_port
from channels_redis_fast.sync import hub
from tests.core.helpers import within
from tests.sync.helpers import in_threads, wait_until

Make = Callable[..., Any]

#: Calls that are refused, by what is wrong with them: method and arguments.
WRONG: dict[str, tuple[Any, ...]] = {
    "channel": ("send", "no channel", {}),
    "channel type": ("send", 5, {}),
    "group": ("group_send", "no group", {}),
    "group type": ("group_send", None, {}),
    "group of many": ("group_send_many", [("room", {}), (b"room", {})]),
    "message": ("send", "target", "text"),
    "group message": ("group_send", "room", ["list"]),
    "reserved key": ("send", "target", {"__asgi_channel__": "x"}),
    "value": ("send", "target", {"value": object}),
    "value of many": ("send_many", [("target", {}), ("target", {"value": {1, 2}})]),
    "value for a group": ("group_send", "room", {"value": 2**80}),
    "text": ("send", "target", {"text": "\ud800"}),
    "pair": ("send_many", [("target",)]),
    "no list": ("send_many", 5),
    "member": ("group_add", "room", "no channel"),
    "left group": ("group_discard", "no group", "target"),
    "member type": ("group_add", "room", None),
}


def outcome(function: Callable[[], Any]) -> Any:
    """Type and text of what it raises, or what it returns."""
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


def in_all_ways(make: Make, method: str, *arguments: Any, **options: Any) -> list[Any]:
    """The outcome on connections of the loop's own, through the I/O thread, and without a loop."""
    direct, through = make(sync_hub="never", **options), make(**options)
    return [
        outcome(lambda: asyncio.run(within(getattr(direct, method)(*arguments)))),
        outcome(lambda: asyncio.run(within(getattr(through, method)(*arguments)))),
        outcome(lambda: async_to_sync(getattr(through, method))(*arguments)),
        outcome(lambda: getattr(through.sync, method)(*arguments)),
    ]


@pytest.mark.parametrize("what", WRONG)
def test_refused_calls(make: Make, place_of: Any, what: str) -> None:
    place = place_of(make())
    direct, *others = in_all_ways(make, *WRONG[what])
    assert others == [direct] * 3
    if direct is not None:
        # Pub/Sub takes some of them.
        assert not place.messages()


@pytest.mark.parametrize("kind", ["core"], indirect=True)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [("send", ("target", {})), ("send_many", ([("other", {}), ("target", {}), ("target", {})],))],
)
def test_full_channels(make: Make, method: str, arguments: Any) -> None:
    make(capacity=1).sync.send("target", {})
    outcomes = in_all_ways(make, method, *arguments, capacity=1)
    if method == "send_many":
        # The first of them fills the other one.
        assert outcomes.pop(0) == (ChannelFull, "target")
        assert outcomes == [(ChannelFull, "other, target")] * 3
    else:
        assert outcomes == [(ChannelFull, "target")] * 4


@pytest.mark.parametrize("method", ["send", "group_send"])
def test_nobody_there(make: Make, method: str) -> None:
    port = free_port()
    direct, *others = in_all_ways(make, method, "target", {}, hosts=[f"redis://:s3cret@127.0.0.1:{port}"])
    assert others == [direct] * 3
    assert direct[0].__name__ == "ConnectionError"
    assert f"127.0.0.1:{port}" in direct[1]
    assert "s3cret" not in direct[1]


def test_wrong_passwords(make: Make, own_server: Callable[..., Server]) -> None:
    server = own_server("--requirepass", "s3cret")
    host = f"redis://:wr0ng@127.0.0.1:{server.port}"
    direct, *others = in_all_ways(make, "send", "target", {}, hosts=[host])
    assert others == [direct] * 3
    assert direct[0].__name__ == "AuthenticationError"
    assert "wr0ng" not in direct[1]


def test_what_the_server_refuses(make: Make, own_server: Callable[..., Server]) -> None:
    server = own_server()
    import redis

    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "&*", "+@connection", "+script", "+ping")
    host = f"redis://narrow:pw@127.0.0.1:{server.port}"
    direct, *others = in_all_ways(make, "send", "target", {}, hosts=[host])
    assert others == [direct] * 3
    assert direct[0].__name__ == "NoPermissionError"


def test_the_traceback_leads_to_the_caller(make: Make) -> None:
    """And to where it happened: an error report shows both."""
    layer = make()

    def a_view() -> None:
        async_to_sync(layer.send)("target", {"value": object})

    def a_task() -> None:
        layer.sync.send("target", {"value": object})

    for caller in (a_view, a_task):
        with pytest.raises(TypeError) as raised:
            caller()
        names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
        assert caller.__name__ in names
        assert "send" in names


def test_errors_of_one_call_reach_that_call_alone(make: Make, place_of: Any) -> None:
    layer = make()
    place = place_of(layer)

    def work(index: int) -> Any:
        results = []
        for n in range(20):
            value = object if (n + index) % 2 else n
            results.append(outcome(lambda value=value: layer.sync.send(place.channel, {"value": value, "from": index})))
        return results

    for index, results in enumerate(in_threads(10, work)):
        for n, result in enumerate(results):
            assert (result is not None) == bool((n + index) % 2), result
    assert len(place.heard(100)) == 100


# What a layer of the site's own sees.


request: contextvars.ContextVar[str] = contextvars.ContextVar("request")


def with_request(kind: Any) -> Any:
    class Sees(kind):  # type: ignore[misc]
        def serialize(self, message: Any) -> Any:
            return super().serialize({**message, "request": request.get("none")})

    return Sees


def test_an_overridden_serializer_sees_the_callers_context(make: Make, place_of: Any) -> None:
    layer = make(with_request)
    place = place_of(layer)

    def calls(name: str) -> None:
        request.set(name)
        async_to_sync(layer.send)(place.channel, {"n": 1})
        layer.sync.send(place.channel, {"n": 2})

    contextvars.copy_context().run(calls, "a")
    layer.sync.send(place.channel, {"n": 3})
    in_threads(1, lambda _: contextvars.copy_context().run(calls, "b"))
    expected = [(1, "a"), (2, "a"), (3, "none"), (1, "b"), (2, "b")]
    assert [(message["n"], message["request"]) for message in place.heard(5)] == expected


def test_each_of_many_callers_is_seen_in_its_own_context(make: Make, place_of: Any) -> None:
    """Also where the I/O thread takes several calls up at once."""

    layer = make(with_request)
    place = place_of(layer)
    io_thread, held = hub.current(), threading.Event()
    io_thread.loop.call_soon_threadsafe(held.wait, 30)

    def work(index: int) -> None:
        if index == 10:
            wait_until(lambda: len(io_thread._calls) == 10)
            held.set()
            return
        request.set(f"request {index}")
        layer.sync.send(place.channel, {"n": index})

    assert in_threads(11, work) == [None] * 11
    assert all(message["request"] == f"request {message['n']}" for message in place.heard(10))


@pytest.mark.parametrize("method", ["send", "group_send"])
def test_an_overridden_method_is_called_once_for_a_message(make: Make, place_of: Any, method: str) -> None:
    called: list[tuple[str, int]] = []

    def counting(kind: Any) -> Any:
        class Counts(kind):  # type: ignore[misc]
            async def send(self, channel: str, message: Any) -> None:
                called.append(("send", message["n"]))
                await super().send(channel, message)

            async def group_send(self, group: str, message: Any) -> None:
                called.append(("group_send", message["n"]))
                await super().group_send(group, message)

        return Counts

    layer = make(counting)
    place = place_of(layer)
    target = place.channel if method == "send" else place.group
    async_to_sync(getattr(layer, method))(target, {"n": 0})
    asyncio.run(getattr(layer, method)(target, {"n": 1}))
    getattr(layer.sync, method)(target, {"n": 2})
    assert called == [(method, 0), (method, 1), (method, 2)]
    if method == "group_send":
        async_to_sync(layer.group_send_many)([(target, {"n": 3}), (target, {"n": 4})])
        layer.sync.group_send_many([(target, {"n": 5})])
        assert called[3:] == [(method, 3), (method, 4), (method, 5)]
    assert [message["n"] for message in place.heard(len(called))] == list(range(len(called)))


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_serializer_that_ends_everything_ends_its_own_call(make: Make, place_of: Any, error: Any) -> None:
    """The caller's thread gets it. The I/O thread, on which others wait, goes on."""

    def ending(kind: Any) -> Any:
        class Ends(kind):  # type: ignore[misc]
            def serialize(self, message: Any) -> Any:
                if "end" in message:
                    raise error
                return super().serialize(message)

        return Ends

    layer = make(ending)
    place = place_of(layer)
    thread = hub.current()
    with pytest.raises(error):
        layer.sync.send(place.channel, {"end": True})
    layer.sync.send(place.channel, {"n": 1})
    async_to_sync(layer.send)(place.channel, {"n": 2})
    assert hub.current() is thread
    assert place.heard(2) == [{"n": 1}, {"n": 2}]
    assert sum(other.name == "channels_redis_fast" for other in threading.enumerate()) == 1
