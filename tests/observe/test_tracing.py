"""OpenTelemetry spans: of sends, of the consumers that messages reach, and nothing at all while it is off."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import ChannelFull
from channels.testing import ApplicationCommunicator
from channels.worker import Worker
from django.test import override_settings
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import code_attributes, messaging_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode

from channels_redis_fast import consumers, deploy, opentelemetry
from channels_redis_fast.consumers import sources
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.opentelemetry import TRACEPARENT, ChannelsRedisFastInstrumentor
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.consumers.conftest import layers_of
from tests.core.helpers import LIMIT, started, within

Make = Callable[..., Any]


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind]

    def one(self, kind: SpanKind) -> ReadableSpan:
        (span,) = self.of(kind)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Turn spans on for one test."""
    found = Spans()
    instrumentor = ChannelsRedisFastInstrumentor()
    instrumentor.instrument(tracer_provider=found.provider)
    yield found
    instrumentor.uninstrument()


def linked(consumed: ReadableSpan, produced: ReadableSpan) -> bool:
    return [link.context.span_id for link in consumed.links] == [produced.context.span_id]


class Heard(AsyncConsumer):
    """Notes what it is given, and in which span."""

    heard: asyncio.Queue[tuple[dict[str, Any], Any]]

    async def test_start(self, message: dict[str, Any]) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "channel", "channel": self.channel_name})

    async def chat_message(self, message: dict[str, Any]) -> None:
        self.heard.put_nowait((message, trace.get_current_span().get_span_context()))

    async def chat_fail(self, message: dict[str, Any]) -> None:
        raise LookupError("no such room")


class HeardDirectly(Heard, consumers.AsyncConsumer):
    """The same with direct dispatch."""


class HeardInThread(SyncConsumer):
    """The same in a thread."""

    heard: asyncio.Queue[tuple[dict[str, Any], Any]]

    def test_start(self, message: dict[str, Any]) -> None:
        self.send({"type": "channel", "channel": self.channel_name})

    def chat_message(self, message: dict[str, Any]) -> None:
        self.heard._loop.call_soon_threadsafe(  # type: ignore[attr-defined]
            self.heard.put_nowait, (message, trace.get_current_span().get_span_context())
        )


async def connected(consumer: type[Any], layer: Any) -> tuple[ApplicationCommunicator, str, Any]:
    """A consumer that has begun, its channel, and what it hears."""
    heard: Any = asyncio.Queue()
    heard._loop = asyncio.get_running_loop()
    kind = type(consumer.__name__, (consumer,), {"heard": heard})
    application = ApplicationCommunicator(kind.as_asgi(), {"type": "test"})
    await application.send_input({"type": "test.start"})
    return application, (await application.receive_output(LIMIT))["channel"], heard


@pytest.fixture
def site(make: Make) -> Iterator[Any]:
    """The layer that consumers have."""
    layer = make()
    kind = "pubsub" if isinstance(layer, RedisPubSubChannelLayer) else "core"
    with override_settings(CHANNEL_LAYERS=layers_of(kind, "redis://localhost", "none")):
        from channels.layers import channel_layers

        channel_layers.set("default", layer)
        yield layer


@pytest.mark.parametrize("consumer", [Heard, HeardDirectly, HeardInThread])
async def test_a_message_to_a_consumer(site: Any, spans: Spans, consumer: type[Any]) -> None:
    application, channel, heard = await connected(consumer, site)
    with spans.provider.get_tracer("test").start_as_current_span("outer") as outer:
        original = {"type": "chat.message", "n": [1]}
        await site.send(channel, original)
    message, current = await within(heard.get())
    # Nothing of it is in the message, neither here nor there.
    assert message == original == {"type": "chat.message", "n": [1]}
    await application.send_input({"type": "test.start"})
    await application.receive_output(LIMIT)
    produced, consumed = spans.one(SpanKind.PRODUCER), spans.one(SpanKind.CONSUMER)
    assert current == consumed.context
    assert linked(consumed, produced)
    assert consumed.parent is None
    assert produced.parent.span_id == outer.get_span_context().span_id
    assert (produced.name, consumed.name) == ("send (anonymous)", "process chat.message")
    port = int(next(iter(site.stats()["round_trips"])).rpartition(":")[2])
    assert dict(produced.attributes) == {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": channel,
        "messaging.destination.anonymous": True,
        "channels.message.type": "chat.message",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert dict(consumed.attributes) == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": channel,
        "messaging.destination.anonymous": True,
        "channels.message.type": "chat.message",
        "code.function.name": f"{consumer.__module__}.{consumer.__qualname__}.chat_message",
    }
    application.stop()


async def test_a_message_to_a_group(site: Any, spans: Spans) -> None:
    """One send, a span for each consumer that it reaches; and ``layer.sync`` is no other way."""
    together = [await connected(consumer, site) for consumer in (Heard, HeardDirectly)]
    await site.group_send("room", {"type": "chat.message"})
    for _, _, heard in together:
        assert (await within(heard.get()))[0] == {"type": "chat.message"}
    produced = spans.one(SpanKind.PRODUCER)
    assert (produced.name, produced.attributes["messaging.operation.name"]) == ("group_send room", "group_send")
    await asyncio.to_thread(site.sync.group_send, "room", {"type": "chat.message"})
    await site.group_send_many([("room", {"type": "chat.message"})])
    for _, _, heard in together:
        assert [(await within(heard.get()))[0] for _ in range(2)] == [{"type": "chat.message"}] * 2
    for application, _, _ in together:
        await application.send_input({"type": "test.start"})
        await application.receive_output(LIMIT)
    consumed = spans.of(SpanKind.CONSUMER)
    assert len(consumed) == 6
    for produced in spans.of(SpanKind.PRODUCER):
        assert sum(linked(span, produced) for span in consumed) == 2
    for application, _, _ in together:
        application.stop()


@pytest.mark.parametrize("consumer", [Heard, HeardDirectly])
async def test_a_handler_that_fails(site: Any, spans: Spans, consumer: type[Any]) -> None:
    application, channel, _ = await connected(consumer, site)
    await site.send(channel, {"type": "chat.fail"})
    with pytest.raises(LookupError, match="no such room"):
        await application.wait(LIMIT)
    consumed = spans.one(SpanKind.CONSUMER)
    assert consumed.status.status_code is StatusCode.ERROR
    assert consumed.attributes["error.type"] == "LookupError"
    assert [event.name for event in consumed.events] == ["exception"]


async def test_sends_that_are_refused(make_core: Make, spans: Spans) -> None:
    layer = make_core(capacity=1)
    await layer.send("jobs", {"type": "x"})
    with pytest.raises(ChannelFull):
        await layer.send("jobs", {"type": "x"})
    first, second = spans.of(SpanKind.PRODUCER)
    assert (first.name, first.status.status_code) == ("send jobs", StatusCode.UNSET)
    assert "messaging.destination.anonymous" not in first.attributes
    assert (second.status.status_code, second.attributes["error.type"]) == (
        StatusCode.ERROR,
        "channels.exceptions.ChannelFull",
    )
    with pytest.raises(AssertionError):
        await layer.send("jobs", "text")


async def test_many_messages_and_receivers_of_their_own(make: Make, spans: Spans) -> None:
    """Who calls ``receive`` gets the message as it was sent, and a span that says where it came from."""
    layer = make()
    channel = await layer.new_channel()
    waits = [await started(layer.receive(channel))]
    await layer.send_many([(channel, {"type": "x", "n": n}) for n in range(3)])
    waits += [await started(layer.receive(channel)) for _ in range(2)]
    assert [await within(wait) for wait in waits] == [{"type": "x", "n": n} for n in range(3)]
    produced = spans.one(SpanKind.PRODUCER)
    assert (produced.name, produced.attributes["messaging.batch.message_count"]) == ("send_many", 3)
    consumed = spans.of(SpanKind.CONSUMER)
    assert [(span.name, linked(span, produced)) for span in consumed] == [("receive (anonymous)", True)] * 3
    assert {span.attributes["messaging.operation.type"] for span in consumed} == {"receive"}


async def test_a_worker(make_core: Make, spans: Spans) -> None:
    """Channels' own: it receives on a general channel, and hands on to a consumer."""
    layer = make_core()
    heard: Any = asyncio.Queue()
    consumer = type("Job", (Heard,), {"heard": heard})
    with override_settings(CHANNEL_LAYERS={}):
        worker = Worker(consumer.as_asgi(), ["jobs"], layer)
        listening = asyncio.ensure_future(worker.listener("jobs"))
        await layer.send("jobs", {"type": "chat.message"})
        message, current = await within(heard.get())
    assert message == {"type": "chat.message"}
    ending = [listening, *(instance["future"] for instance in worker.application_instances.values())]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
    consumed = spans.one(SpanKind.CONSUMER)
    assert consumed.context == current
    assert linked(consumed, spans.one(SpanKind.PRODUCER))
    assert consumed.attributes["messaging.destination.name"] == "jobs"


async def test_a_worker_of_jobs(make_core: Make, spans: Spans) -> None:
    """That of ``channels_worker``: the consumer asks it for its messages."""
    layer = make_core()
    heard: Any = asyncio.Queue()
    heard._loop = asyncio.get_running_loop()
    for kind in (Heard, HeardDirectly, HeardInThread):
        consumer = type("Job", (kind,), {"heard": heard})
        with override_settings(CHANNEL_LAYERS={}):
            worker = deploy.Worker(consumer.as_asgi(), ["jobs"], layer)
            running = asyncio.ensure_future(worker.run())
            await layer.send("jobs", {"type": "chat.message"})
            message, current = await within(heard.get())
            worker.stop()
            await within(running)
        assert message == {"type": "chat.message"}
        consumed = spans.one(SpanKind.CONSUMER)
        assert consumed.context == current
        assert linked(consumed, spans.one(SpanKind.PRODUCER))
        assert consumed.attributes["messaging.destination.name"] == "jobs"
        spans.exporter.clear()


async def test_a_group_send_that_leaves_somebody_out(make: Make, spans: Spans) -> None:
    layer = make()
    sender, other = [await layer.new_channel() for _ in range(2)]
    for channel in (sender, other):
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x"}, exclude=[sender])
    assert await within(layer.receive(other)) == {"type": "x"}
    await layer.group_send_many([("room", {"type": "y"}), ("room", {"type": "z"}, [sender])])
    assert [await within(layer.receive(other)) for _ in range(2)] == [{"type": "y"}, {"type": "z"}]
    assert await within(layer.receive(sender)) == {"type": "y"}
    assert [span.name for span in spans.of(SpanKind.PRODUCER)] == ["group_send room"] * 3


async def test_histories_give_what_was_sent(make: Make, spans: Spans) -> None:
    layer = make(history={"room": {"size": 10, "ttl": 60}})
    channel = await layer.new_channel()
    start = (await layer.group_history("room")).position
    await layer.group_send("room", {"type": "x"})
    for history in (await layer.group_history("room"), await layer.group_resume("room", channel, start)):
        (message,) = history.messages
        assert sorted(message) == ["__position__", "type"]


async def test_what_the_wire_has(make: Make, spans: Spans) -> None:
    """A context only while this is on, and where it is not suppressed."""
    base = make()
    written: list[set[str]] = []

    class Seen(type(base)):  # type: ignore[misc]
        def serialize(self, message: dict[str, Any]) -> bytes:
            written.append(set(message) - {"__asgi_channel__"})
            return super().serialize(message)  # type: ignore[no-any-return]

    layer = Seen(hosts=base.hosts, prefix=base.prefix)
    channel = await layer.new_channel()

    async def send(message: dict[str, Any], sender: Any = Seen.send) -> set[str]:
        wait = await started(layer.receive(channel))
        await sender(layer, channel, message)
        assert await within(wait) == {"type": "x"}
        return written.pop()

    assert await send({"type": "x"}) == {"type", TRACEPARENT}
    with suppress_instrumentation():
        assert await send({"type": "x"}) == {"type"}
    # A peer's that means nothing: a span without a link.
    spans.exporter.clear()
    await send({"type": "x", TRACEPARENT: 5}, Seen.send.__wrapped__)
    assert spans.one(SpanKind.CONSUMER).links == ()
    spans.exporter.clear()
    ChannelsRedisFastInstrumentor().uninstrument()
    assert await send({"type": "x"}, Seen.send) == {"type"}
    assert not spans.exporter.get_finished_spans()
    await layer.close_pools()


def test_nothing_is_replaced_while_it_is_off() -> None:
    """And all of it is put back: what runs then is what runs in a process that never heard of it."""
    places = [
        (layer, name)
        for layer in (RedisChannelLayer, RedisPubSubChannelLayer)
        for name in ("send", "send_many", "group_send", "group_resume", "receive")
    ]
    before = [vars(owner)[name] for owner, name in places]
    read = sources.READ
    assert {RedisChannelLayer.receive, RedisPubSubChannelLayer.receive} <= set(read)
    instrumentor = ChannelsRedisFastInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    assert not any(vars(owner)[name] is was for (owner, name), was in zip(places, before, strict=True))
    # A consumer's mailbox is read without a receive all the same, and consumers can be made direct.
    assert {RedisChannelLayer.receive, RedisPubSubChannelLayer.receive} <= set(sources.READ)
    consumers.install()
    consumers.uninstall()
    instrumentor.uninstrument()
    assert all(vars(owner)[name] is was for (owner, name), was in zip(places, before, strict=True))
    assert read == sources.READ


SENDER = """
import asyncio, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer

trace.set_tracer_provider(TracerProvider())
kind, url, prefix, channel = sys.argv[1:]
from importlib.metadata import entry_points
(entry,) = entry_points(group="opentelemetry_instrumentor", name="channels_redis_fast")
entry.load()().instrument()

async def main():
    layer = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}[kind](hosts=[url], prefix=prefix)
    with trace.get_tracer("sender").start_as_current_span("outer") as outer:
        await layer.send(channel, {"type": "chat.message", "from": "there"})
        print(json.dumps(outer.get_span_context().trace_id))
    await layer.close_pools()

asyncio.run(main())
"""


async def test_across_two_processes(site: Any, spans: Spans, redis_server: Any, prefix: str) -> None:
    """The sender finds the instrumentor by its entry point, as ``opentelemetry-instrument`` does."""
    application, channel, heard = await connected(HeardDirectly, site)
    kind = "pubsub" if isinstance(site, RedisPubSubChannelLayer) else "core"
    said = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", SENDER, kind, redis_server.url, site.prefix, channel],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (await within(heard.get()))[0] == {"type": "chat.message", "from": "there"}
    await application.send_input({"type": "test.start"})
    await application.receive_output(LIMIT)
    (link,) = spans.one(SpanKind.CONSUMER).links
    assert link.context.trace_id == json.loads(said.stdout)
    assert link.context.is_remote
    application.stop()


def test_the_names_are_those_of_the_conventions() -> None:
    assert opentelemetry.SYSTEM == messaging_attributes.MESSAGING_SYSTEM
    assert opentelemetry.OPERATION_NAME == messaging_attributes.MESSAGING_OPERATION_NAME
    assert opentelemetry.OPERATION_TYPE == messaging_attributes.MESSAGING_OPERATION_TYPE
    assert opentelemetry.DESTINATION == messaging_attributes.MESSAGING_DESTINATION_NAME
    assert opentelemetry.IS_ANONYMOUS == messaging_attributes.MESSAGING_DESTINATION_ANONYMOUS
    assert opentelemetry.MESSAGE_COUNT == messaging_attributes.MESSAGING_BATCH_MESSAGE_COUNT
    assert opentelemetry.SERVER_ADDRESS == server_attributes.SERVER_ADDRESS
    assert opentelemetry.SERVER_PORT == server_attributes.SERVER_PORT
    assert opentelemetry.FUNCTION == code_attributes.CODE_FUNCTION_NAME
    types = {kind.value for kind in messaging_attributes.MessagingOperationTypeValues}
    assert {"send", "receive", "process"} <= types


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to install."""
    assert entry_points(group="opentelemetry_instrumentor", name="channels_redis_fast")
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "channels_redis_fast.opentelemetry")
    with pytest.raises(ImportError) as raised:
        importlib.import_module("channels_redis_fast.opentelemetry")
    assert str(raised.value) == (
        "channels_redis_fast.opentelemetry needs opentelemetry-instrumentation: pip install channels-redis-fast[otel]"
    )
