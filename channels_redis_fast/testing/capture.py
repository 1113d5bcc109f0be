"""Captures what is sent through an in-memory layer in a part of a test, and checks it against expectations."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from types import TracebackType
from typing import Any, TypeVar

from ..memory import InMemoryChannelLayer
from ..messages.codec import Message

Self = TypeVar("Self", bound="Capture")


class Capture(list[Message]):
    """
    The messages that were sent, in order, each a copy of what the sender passed: the result of ``capture``.

    A context manager, for ``with`` and for ``async with``. The messages stay available after it has ended.
    """

    def __init__(self, layer: InMemoryChannelLayer, group: str | None, channel: str | None) -> None:
        super().__init__()
        self._layer = layer
        self._group = group
        self._channel = channel
        #: Everything else that was sent meanwhile, with its destination: for error messages.
        self._elsewhere: list[tuple[bool, str, Message]] = []

    def __enter__(self: Self) -> Self:
        self._layer._watchers.append(self._watch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._layer._watchers.remove(self._watch)

    async def __aenter__(self: Self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _watch(self, is_group: bool, name: str, message: Message) -> None:
        wanted = self._group if is_group else self._channel
        everything = self._group is None and self._channel is None
        if everything or name == wanted:
            self.append(_copy(message))
        else:
            self._elsewhere.append((is_group, name, message))

    def _expect(self, expected: Mapping[str, Any], times: int | None, whereto: str) -> None:
        found = sum(_matches(message, expected) for message in self)
        if found == times or (times is None and found):
            return
        wanted = "no message" if times == 0 else "a message" if times in (None, 1) else f"{times} messages"
        lines = [f"{whereto} was to be sent {wanted} with {dict(expected)!r}; {found} of {len(self)} were:"]
        lines += [f"  {message!r}" for message in self]
        lines += [
            f"  {'group' if is_group else 'channel'} {name!r}: {message!r}"
            for is_group, name, message in self._elsewhere
        ]
        if len(lines) == 1:
            lines = [f"{lines[0].partition(';')[0]}, and nothing was sent to anyone."]
        raise AssertionError("\n".join(lines))


class Expectation(Capture):
    """A capture that raises ``AssertionError`` at its end if the expected messages were not sent."""

    def __init__(
        self,
        layer: InMemoryChannelLayer,
        group: str | None,
        channel: str | None,
        expected: Mapping[str, Any],
        times: int | None,
    ) -> None:
        super().__init__(layer, group, channel)
        self._expected = expected
        self._times = times

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if kind is None:
            whereto = f"Channel {self._channel!r}" if self._group is None else f"Group {self._group!r}"
            self._expect(self._expected, self._times, whereto)


def capture(layer: Any, *, group: str | None = None, channel: str | None = None) -> Capture:
    """
    Return a context manager that is a list of the messages sent inside it: to a group, to a channel, or all.

        with capture(layer, group="room") as sent:
            post_save_of_something()
        assert sent == [{"type": "chat.message", "text": "hello"}]

    A message counts if the layer accepted it, whoever receives it and whichever thread sent it; a message to a group
    counts for the group, not for its channels. Presence events count too.

    Raises ``TypeError`` if both a group and a channel are given, and for a layer that is not in memory.
    """
    return Capture(_in_memory(layer), *_one_of(group, channel))


def assert_group_sent(
    layer: Any, group: str, expected: Mapping[str, Any] | None = None, *, times: int | None = None, **entries: Any
) -> Capture:
    """
    Return a context manager that raises ``AssertionError`` at its end unless the group was sent the expected messages.

    ``expected``, or keywords: entries that a message must have; it may have others. ``times``: the number of such
    messages; None for at least one. Like ``capture``, it is the list of the messages to the group.

        async with assert_group_sent(layer, "room", type="chat.message"):
            await communicator.send_json_to({"text": "hello"})
            await settled(layer)
    """
    return Expectation(_in_memory(layer), group, None, {**(expected or {}), **entries}, times)


def assert_sent(
    layer: Any, channel: str, expected: Mapping[str, Any] | None = None, *, times: int | None = None, **entries: Any
) -> Capture:
    """Like ``assert_group_sent``, for messages to a channel."""
    return Expectation(_in_memory(layer), None, channel, {**(expected or {}), **entries}, times)


def _matches(message: Message, expected: Mapping[str, Any]) -> bool:
    return all(name in message and message[name] == value for name, value in expected.items())


def _one_of(group: str | None, channel: str | None) -> tuple[str | None, str | None]:
    if group is not None and channel is not None:
        raise TypeError("capture takes a group or a channel, not both")
    return group, channel


def _in_memory(layer: Any) -> InMemoryChannelLayer:
    if not isinstance(layer, InMemoryChannelLayer):
        raise TypeError(
            f"{type(layer).__name__} cannot be watched: use channels_redis_fast.memory.InMemoryChannelLayer in tests"
        )
    return layer


def _copy(message: Message) -> Message:
    try:
        return deepcopy(message)
    except Exception:
        # In a layer without serialization, a message that cannot be copied is shown as it is.
        return dict(message)
