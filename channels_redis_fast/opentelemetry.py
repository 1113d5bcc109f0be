"""
OpenTelemetry spans for messages. Needs the extra ``[otel]``.

    from channels_redis_fast.opentelemetry import ChannelsRedisFastInstrumentor

    ChannelsRedisFastInstrumentor().instrument()

``opentelemetry-instrument`` does that automatically. A send is a PRODUCER span. The handler of a consumer that the
message reaches is a CONSUMER span with a link to it, also in another process. Names and attributes are those of
OpenTelemetry's semantic conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).

While this is on, methods of the layers, and the functions in which consumers wait for their messages, are replaced;
while it is off, none of it runs. Knows how a layer is called. Does not know what it does.

Rules kept here:

- A message carries the context of its span under keys of its own (``TRACEPARENT``, ``TRACESTATE``) in the format of W3C
  Trace Context, whatever propagators are configured. The keys are removed before a consumer, or a caller of
  ``receive``, gets the message. The caller's message is never changed.
- A receive for a consumer leaves them in, since the consumer's span needs them.
- A context that cannot be read loses no message: the span just has no link.
"""

from __future__ import annotations

import contextlib
import functools
import re
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from channels import consumer as channels_consumer
from channels.exceptions import StopConsumer
from channels.worker import Worker

from . import __version__
from .base import HistoryMethods, RedisLayer
from .connection.hosts import host_label, is_cluster
from .consumers import dispatch as direct_dispatch
from .consumers import sources
from .core import RedisChannelLayer
from .history import History
from .pubsub import RedisPubSubChannelLayer

try:
    from opentelemetry import trace
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise ImportError(
        "channels_redis_fast.opentelemetry needs opentelemetry-instrumentation: pip install channels-redis-fast[otel]"
    ) from None

__all__ = ["ChannelsRedisFastInstrumentor"]

#: The keys under which a message carries the context of the span that sent it.
TRACEPARENT, TRACESTATE = "__traceparent__", "__tracestate__"

#: Names defined by the conventions.
SYSTEM = "messaging.system"
OPERATION_NAME, OPERATION_TYPE = "messaging.operation.name", "messaging.operation.type"
DESTINATION, IS_ANONYMOUS = "messaging.destination.name", "messaging.destination.anonymous"
MESSAGE_COUNT = "messaging.batch.message_count"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
FUNCTION, ERROR_TYPE = "code.function.name", "error.type"

#: The type of a message, which tells Channels its handler. The conventions have no such attribute.
MESSAGE_TYPE = "channels.message.type"

#: The end of a channel name that ``new_channel`` made: there are too many of them for the name of a span.
_UNIQUE = re.compile(r"[0-9a-f]{32}\Z")

#: W3C Trace Context, by the header's names.
_PROPAGATOR = TraceContextTextMapPropagator()
_HEADERS = {TRACEPARENT: "traceparent", TRACESTATE: "tracestate"}

Message = dict[str, Any]
Dispatch = Callable[[Message], Awaitable[None]]

#: Whether a message received in this context goes to a consumer, whose span needs the keys that the message carries.
_is_for_consumer: ContextVar[bool] = ContextVar("channels_redis_fast.opentelemetry.is_for_consumer", default=False)


class ChannelsRedisFastInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """
    Turns spans for the messages of all layers of this package on (``instrument``) and off (``uninstrument``).

    ``instrument`` accepts a ``tracer_provider``; the default is the global one. Call it when the process starts: a
    consumer whose client connected earlier has no spans, and sees the context keys in its messages.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the required packages: the version of Channels that this package itself needs."""
        return ("channels >= 4.2.2",)

    def _instrument(self, **kwargs: Any) -> None:
        provider = kwargs.get("tracer_provider")
        _tracing.tracer = trace.get_tracer(__name__, __version__, tracer_provider=provider)
        _tracing.replace()

    def _uninstrument(self, **kwargs: Any) -> None:
        _tracing.tracer = None
        _tracing.restore()


class Tracing:
    """Replaces functions while spans are on, and makes the spans."""

    def __init__(self) -> None:
        #: None while spans are off. Consumers stay connected across a change.
        self.tracer: Tracer | None = None
        #: Owner, name, the original and the replacement.
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def replace(self) -> None:
        """Replace the functions that messages go through with ours."""
        received = []
        for layer in (RedisChannelLayer, RedisPubSubChannelLayer):
            self._wrap(layer, "send", _sending("send"))
            self._wrap(layer, "group_send", _sending("group_send"))
            self._wrap(layer, "send_many", _sending_many)
            self._wrap(layer, "group_resume", _reading)
            received.append(self._wrap(layer, "receive", _receiving))
        self._wrap(HistoryMethods, "group_history", _reading)
        # A consumer's own receive is never called if its mailbox can be read, and ours is as good as the original.
        self._put(sources, "READ", (*sources.READ, *received))
        self._wrap(direct_dispatch, "dispatch_all", _dispatching)
        self._wrap(channels_consumer, "await_many_dispatch", _dispatching)
        self._wrap(Worker, "listener", _listening)

    def restore(self) -> None:
        """Restore the originals. If another package has replaced ours, its function stays, and ours does nothing."""
        while self._replaced:
            owner, name, original, ours = self._replaced.pop()
            if vars(owner).get(name) is ours:
                setattr(owner, name, original)

    def is_on(self) -> bool:
        """Whether spans are made in this context."""
        return self.tracer is not None and is_instrumentation_enabled()

    def producing(
        self, layer: RedisLayer, operation: str, destination: str | None, **more: Any
    ) -> contextlib.AbstractContextManager[None]:
        """Return the span of a send, as a context manager."""
        attributes = {
            OPERATION_NAME: operation,
            OPERATION_TYPE: "send",
            **_destination(destination),
            **_server(layer),
            **more,
        }
        return self._span(f"{operation} {_short(destination)}".rstrip(), SpanKind.PRODUCER, attributes)

    def processing(
        self, handler: Dispatch, message: Message, links: Sequence[Link]
    ) -> contextlib.AbstractContextManager[None]:
        """Return the span of a consumer's handler, as a context manager; it links to the send of the message."""
        # A SyncConsumer's dispatch is a partial, as is everything that asgiref runs in a thread.
        consumer = handler.args[0] if isinstance(handler, functools.partial) else getattr(handler, "__self__", None)
        kind = message.get("type")
        scope = getattr(consumer, "scope", None) or {}
        # A worker receives for the consumer.
        channel = scope.get("channel") if scope.get("type") == "channel" else getattr(consumer, "channel_name", None)
        attributes = {OPERATION_NAME: "process", OPERATION_TYPE: "process", **_destination(channel), **_type(message)}
        if consumer is not None and isinstance(kind, str):
            attributes[FUNCTION] = f"{_name_of(type(consumer))}.{kind.replace('.', '_')}"
        # A channel belongs to one connection, so its name says nothing; the type says what is done with the message.
        return self._span(f"process {kind}", SpanKind.CONSUMER, attributes, links)

    def received(self, channel: str, message: Message, links: Sequence[Link]) -> None:
        """Make a span for a message that was received outside of a consumer."""
        attributes = {
            OPERATION_NAME: "receive",
            OPERATION_TYPE: "receive",
            **_destination(channel),
            **_type(message),
        }
        with self._span(f"receive {_short(channel)}", SpanKind.CONSUMER, attributes, links):
            pass

    @contextlib.contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: dict[str, Any], links: Sequence[Link] = ()
    ) -> Iterator[None]:
        tracer = self.tracer
        if tracer is None or not is_instrumentation_enabled():
            yield
            return
        with tracer.start_as_current_span(
            name,
            kind=kind,
            attributes={SYSTEM: "redis", **attributes},
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except StopConsumer:
                # The usual way for a consumer to end.
                raise
            except Exception as error:
                span.record_exception(error)
                span.set_attribute(ERROR_TYPE, _name_of(type(error)))
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
                raise

    def _wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
        original = vars(owner)[name]
        return self._put(owner, name, functools.wraps(original)(make(original)))

    def _put(self, owner: Any, name: str, ours: Any) -> Any:
        self._replaced.append((owner, name, vars(owner)[name], ours))
        setattr(owner, name, ours)
        return ours


_tracing = Tracing()


# The replacements.


def _sending(operation: str) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        async def send(self: Any, channel: str, message: Message) -> None:
            with _tracing.producing(self, operation, channel, **_type(message)):
                await original(self, channel, _with_context(message))

        async def group_send(self: Any, group: str, message: Message, **more: Any) -> None:
            with _tracing.producing(self, operation, group, **_type(message)):
                await original(self, group, _with_context(message), **more)

        # Both exist because callers may pass the arguments by name.
        return send if operation == "send" else group_send

    return make


def _sending_many(original: Any) -> Any:
    async def send_many(self: Any, messages: Iterable[tuple[str, Message]]) -> None:
        pairs = list(messages)
        with _tracing.producing(self, "send_many", None, **{MESSAGE_COUNT: len(pairs)}):
            await original(self, [(channel, _with_context(message)) for channel, message in pairs])

    return send_many


def _receiving(original: Any) -> Any:
    async def receive(self: Any, channel: str) -> Message:
        message: Message = await original(self, channel)
        if not _is_for_consumer.get():
            links = _take_context(message)
            if links is not None:
                _tracing.received(channel, message, links)
        return message

    return receive


def _reading(original: Any) -> Any:
    async def read(self: Any, *args: Any, **kwargs: Any) -> History:
        history: History = await original(self, *args, **kwargs)
        for message in history.messages:
            _take_context(message)
        return history

    return read


def _dispatching(original: Any) -> Any:
    async def dispatch_many(receives: list[Any], dispatch: Dispatch) -> None:
        async def traced(message: Message) -> None:
            links = _take_context(message)
            with _receives(False):
                if links is None:
                    await dispatch(message)
                else:
                    with _tracing.processing(dispatch, message, links):
                        await dispatch(message)

        with _receives(True):
            await original(receives, traced)

    return dispatch_many


def _listening(original: Any) -> Any:
    async def listener(self: Any, channel: str) -> None:
        with _receives(True):
            await original(self, channel)

    return listener


@contextlib.contextmanager
def _receives(for_consumer: bool) -> Iterator[None]:
    """Set whether messages received in this context are for a consumer."""
    token = _is_for_consumer.set(for_consumer)
    try:
        yield
    finally:
        # The garbage collector may end coroutines in another context.
        with contextlib.suppress(ValueError):
            _is_for_consumer.reset(token)


# Contexts in messages.


def _with_context(message: Message) -> Message:
    """Return a message that carries the context of the current span, or the message itself if there is none."""
    if not isinstance(message, dict) or not _tracing.is_on():
        # The layer refuses what is not a dict, or takes it as it is.
        return message
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if not carrier:
        return message
    # Through ``items``, as serializers do: a subclass of dict may return other values there.
    return {**dict(message.items()), **{key: carrier[name] for key, name in _HEADERS.items() if name in carrier}}


def _take_context(message: Any) -> Sequence[Link] | None:
    """Remove the context from a message; return a link to the span that sent it, or None if it has no context."""
    if not isinstance(message, dict) or TRACEPARENT not in message:
        return None
    carrier = {name: message.pop(key, None) for key, name in _HEADERS.items()}
    context = _PROPAGATOR.extract({name: value for name, value in carrier.items() if isinstance(value, str)})
    sender = trace.get_current_span(context).get_span_context()
    return (Link(sender),) if sender.is_valid else ()


# Attributes.


def _destination(name: Any) -> dict[str, Any]:
    if not isinstance(name, str):
        return {}
    return {DESTINATION: name, **({IS_ANONYMOUS: True} if _UNIQUE.search(name) else {})}


def _short(name: Any) -> str:
    """Return what the name of a span calls a channel or a group."""
    if not isinstance(name, str):
        return ""
    return "(anonymous)" if _UNIQUE.search(name) else name


def _type(message: Any) -> dict[str, Any]:
    kind = message.get("type") if isinstance(message, dict) else None
    return {MESSAGE_TYPE: kind} if isinstance(kind, str) else {}


def _name_of(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


#: By layer, the address of its server.
_servers: weakref.WeakKeyDictionary[RedisLayer, dict[str, Any]] = weakref.WeakKeyDictionary()


def _server(layer: RedisLayer) -> dict[str, Any]:
    """Return the address of a layer with one host; with several hosts, it depends on the channel."""
    found = _servers.get(layer)
    if found is None:
        found = _servers[layer] = {}
        address, _, port = host_label(layer.hosts[0]).rpartition(":")
        if len(layer.hosts) == 1 and not is_cluster(layer.hosts[0]) and port.isdecimal():
            found.update({SERVER_ADDRESS: address, SERVER_PORT: int(port)})
    return found
