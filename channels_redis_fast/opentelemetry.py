"""
OpenTelemetry spans for messages; of the extra ``[otel]``.

    from channels_redis_fast.opentelemetry import ChannelsRedisFastInstrumentor

    ChannelsRedisFastInstrumentor().instrument()

``opentelemetry-instrument`` does that by itself. A send is a PRODUCER span; the handler of a consumer that the message
reaches is a CONSUMER span with a link to it, in another process too. Names and attributes are those of OpenTelemetry's
semantic conventions for messaging (https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).

Methods of the layers, and the functions in which consumers wait for their messages, are replaced while this is on; as
long as it is not, nothing of it runs. Knows what a layer is called with, not what it does.

Rules kept here:

- A message carries the context of its span in keys of its own (``TRACEPARENT``, ``TRACESTATE``) as W3C Trace Context
  writes it, whatever propagators are configured. They are taken out before a consumer, or who calls ``receive``, has
  the message; the caller's message is never changed.
- A receive on behalf of a consumer leaves them in, since the consumer's span needs them.
- A context that cannot be read costs no message: there is a span without a link.
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

#: What the conventions call things.
SYSTEM = "messaging.system"
OPERATION_NAME, OPERATION_TYPE = "messaging.operation.name", "messaging.operation.type"
DESTINATION, IS_ANONYMOUS = "messaging.destination.name", "messaging.destination.anonymous"
MESSAGE_COUNT = "messaging.batch.message_count"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
FUNCTION, ERROR_TYPE = "code.function.name", "error.type"

#: The type of a message, by which Channels finds its handler. The conventions have nothing of the kind.
MESSAGE_TYPE = "channels.message.type"

#: How the name of a channel ends that ``new_channel`` made: too many differ for the name of a span.
_UNIQUE = re.compile(r"[0-9a-f]{32}\Z")

#: W3C Trace Context, by the header's names.
_PROPAGATOR = TraceContextTextMapPropagator()
_HEADERS = {TRACEPARENT: "traceparent", TRACESTATE: "tracestate"}

Message = dict[str, Any]
Dispatch = Callable[[Message], Awaitable[None]]

#: Whether what is received in this context goes to a consumer, whose span needs what the message carries.
_is_for_consumer: ContextVar[bool] = ContextVar("channels_redis_fast.opentelemetry.is_for_consumer", default=False)


class ChannelsRedisFastInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """
    Turns spans for the messages of all layers of this package on (``instrument``) and off (``uninstrument``).

    ``instrument`` takes a ``tracer_provider``; by default it is the global one. To be called when the process begins:
    a consumer whose client connected before has no spans, and finds the context in its messages.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what has to be installed: the Channels that this package itself needs."""
        return ("channels >= 4.2.2",)

    def _instrument(self, **kwargs: Any) -> None:
        provider = kwargs.get("tracer_provider")
        _tracing.tracer = trace.get_tracer(__name__, __version__, tracer_provider=provider)
        _tracing.replace()

    def _uninstrument(self, **kwargs: Any) -> None:
        _tracing.tracer = None
        _tracing.restore()


class Tracing:
    """What is replaced while spans are made, and what makes them."""

    def __init__(self) -> None:
        #: None while there are to be no spans. Consumers that are connected outlive a change.
        self.tracer: Tracer | None = None
        #: Owner, name, what was there and what is there now.
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def replace(self) -> None:
        """Put our functions in the place of those that messages go through."""
        received = []
        for layer in (RedisChannelLayer, RedisPubSubChannelLayer):
            self._wrap(layer, "send", _sending("send"))
            self._wrap(layer, "group_send", _sending("group_send"))
            self._wrap(layer, "send_many", _sending_many)
            self._wrap(layer, "group_resume", _reading)
            received.append(self._wrap(layer, "receive", _receiving))
        self._wrap(HistoryMethods, "group_history", _reading)
        # A consumer's own receive is never called where its mailbox can be read, and ours is as good as the original.
        self._put(sources, "READ", (*sources.READ, *received))
        self._wrap(direct_dispatch, "dispatch_all", _dispatching)
        self._wrap(channels_consumer, "await_many_dispatch", _dispatching)
        self._wrap(Worker, "listener", _listening)

    def restore(self) -> None:
        """Put back what was there. What another package has put over ours stays, and finds nothing to do here."""
        while self._replaced:
            owner, name, original, ours = self._replaced.pop()
            if vars(owner).get(name) is ours:
                setattr(owner, name, original)

    def is_on(self) -> bool:
        """Whether there are to be spans here."""
        return self.tracer is not None and is_instrumentation_enabled()

    def producing(
        self, layer: RedisLayer, operation: str, destination: str | None, **more: Any
    ) -> contextlib.AbstractContextManager[None]:
        """Return the span of a send, to be in."""
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
        """Return the span of a consumer's handler, to be in; linked to the send of the message."""
        # A SyncConsumer's dispatch is a partial, as what goes to a thread is in asgiref.
        consumer = handler.args[0] if isinstance(handler, functools.partial) else getattr(handler, "__self__", None)
        kind = message.get("type")
        scope = getattr(consumer, "scope", None) or {}
        # Of a worker, which receives for the consumer.
        channel = scope.get("channel") if scope.get("type") == "channel" else getattr(consumer, "channel_name", None)
        attributes = {OPERATION_NAME: "process", OPERATION_TYPE: "process", **_destination(channel), **_type(message)}
        if consumer is not None and isinstance(kind, str):
            attributes[FUNCTION] = f"{_name_of(type(consumer))}.{kind.replace('.', '_')}"
        # A channel is one connection's, and its name says nothing; what is done with the message, its type says.
        return self._span(f"process {kind}", SpanKind.CONSUMER, attributes, links)

    def received(self, channel: str, message: Message, links: Sequence[Link]) -> None:
        """Make a span for a message that somebody received who is no consumer."""
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
                # How a consumer ends.
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


# What stands in the place of the originals.


def _sending(operation: str) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        async def send(self: Any, channel: str, message: Message) -> None:
            with _tracing.producing(self, operation, channel, **_type(message)):
                await original(self, channel, _with_context(message))

        async def group_send(self: Any, group: str, message: Message, **more: Any) -> None:
            with _tracing.producing(self, operation, group, **_type(message)):
                await original(self, group, _with_context(message), **more)

        # Callers may name the arguments.
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
    """Say for whom what is received in this context is."""
    token = _is_for_consumer.set(for_consumer)
    try:
        yield
    finally:
        # The garbage collector ends coroutines in other contexts.
        with contextlib.suppress(ValueError):
            _is_for_consumer.reset(token)


# Contexts in messages.


def _with_context(message: Message) -> Message:
    """Return a message that carries the context of the current span; the message itself where there is none."""
    if not isinstance(message, dict) or not _tracing.is_on():
        # What is no dict the layer refuses, or takes as it is.
        return message
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if not carrier:
        return message
    # By ``items``, as serializers do: a subclass of dict may show others there than it holds.
    return {**dict(message.items()), **{key: carrier[name] for key, name in _HEADERS.items() if name in carrier}}


def _take_context(message: Any) -> Sequence[Link] | None:
    """Take the context out of a message; return the link to the span that sent it, None for one that has no context."""
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
    """Return what stands for a channel or a group in the name of a span."""
    if not isinstance(name, str):
        return ""
    return "(anonymous)" if _UNIQUE.search(name) else name


def _type(message: Any) -> dict[str, Any]:
    kind = message.get("type") if isinstance(message, dict) else None
    return {MESSAGE_TYPE: kind} if isinstance(kind, str) else {}


def _name_of(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


#: By layer, where it leads to.
_servers: weakref.WeakKeyDictionary[RedisLayer, dict[str, Any]] = weakref.WeakKeyDictionary()


def _server(layer: RedisLayer) -> dict[str, Any]:
    """Return where a layer with one host leads to; with several it depends on the channel."""
    found = _servers.get(layer)
    if found is None:
        found = _servers[layer] = {}
        address, _, port = host_label(layer.hosts[0]).rpartition(":")
        if len(layer.hosts) == 1 and not is_cluster(layer.hosts[0]) and port.isdecimal():
            found.update({SERVER_ADDRESS: address, SERVER_PORT: int(port)})
    return found
