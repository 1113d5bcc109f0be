"""What a layer answers, case by case: one list, run against channels_redis 4.3 and against this package.

    python -m tests.interop.parity --package channels_redis --url URL --prefix PREFIX

runs the whole list and prints it as JSON, an outcome by case: what came back, or the type and text of what was raised.
`test_parity.py` compares, and knows which cases differ on purpose. This module imports nothing that upstream's venv
does not have, and knows both packages only by their public API.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import decimal
import enum
import hashlib
import importlib
import itertools
import json
import logging
import re
import types
import uuid
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

OURS = "channels_redis_fast"
UPSTREAM = "channels_redis"

#: Seconds that one case may take; all but a hanging one take milliseconds.
PATIENCE = 30.0

FORMATS: dict[str, dict[str, Any]] = {
    "msgpack": {},
    "json": {"serializer_format": "json"},
    "encrypted": {"symmetric_encryption_keys": ["the first of the keys, which is long enough", b"another"]},
}

END = {"type": "end"}


class Kit:
    """One package on one server, under a prefix that nobody else has; keeps the layers that it makes."""

    def __init__(self, package: str, url: str, prefix: str) -> None:
        self.package, self.url, self.prefix = package, url, prefix
        self.is_ours = package == OURS
        self.numbers = itertools.count()
        self._layers: dict[str, Any] = {}
        self._channels: dict[tuple[str, str], Any] = {}

    def part(self, name: str) -> Any:
        return importlib.import_module(f"{self.package}.{name}")

    def core_class(self) -> Any:
        return self.part("core").RedisChannelLayer

    def pubsub_class(self) -> Any:
        return self.part("pubsub").RedisPubSubChannelLayer

    def core(self, **options: Any) -> Any:
        return self._layer("core", self.core_class(), options)

    def pubsub(self, **options: Any) -> Any:
        return self._layer("pubsub", self.pubsub_class(), options)

    def database(self, number: int) -> str:
        return f"{self.url}/{number}"

    def name(self, what: str = "name") -> str:
        return f"{what}{next(self.numbers)}"

    async def core_channel(self, kind: str, format: str) -> tuple[Any, str]:
        """A layer and a channel of it; the same each time."""
        layer = self.core(**FORMATS[format])
        if (kind, format) not in self._channels:
            channel = await layer.new_channel() if kind == "specific" else f"general.{format}"
            await layer.group_add(f"{kind}.{format}", channel)
            self._channels[kind, format] = channel
        return layer, self._channels[kind, format]

    async def pubsub_channel(self, format: str) -> tuple[Any, str]:
        layer = self.pubsub(**FORMATS[format])
        if ("pubsub", format) not in self._channels:
            channel = await layer.new_channel()
            await layer.group_add(f"room.{format}", channel)
            # Upstream does not wait for the server's acknowledgement: what is heard is subscribed.
            for send, target in ((layer.send, channel), (layer.group_send, f"room.{format}")):
                receiving = asyncio.ensure_future(layer.receive(channel))
                while not receiving.done():
                    await send(target, {"type": "warm"})
                    await asyncio.wait([receiving], timeout=0.02)
                await layer.send(channel, END)
                while await layer.receive(channel) != END:
                    pass
            self._channels["pubsub", format] = channel
        return layer, self._channels["pubsub", format]

    def _layer(self, kind: str, layer_class: Any, options: dict[str, Any]) -> Any:
        key = f"{kind} {sorted(options.items())!r}"
        if key not in self._layers:
            self._layers[key] = layer_class(**{"hosts": [self.url], "prefix": self.prefix, **options})
        return self._layers[key]

    async def close(self) -> None:
        for layer in self._layers.values():
            await layer.flush()

    def plain(self, text: str) -> str:
        """Text without what differs from run to run, or by the package's name alone."""
        for layer in self._layers.values():
            with contextlib.suppress(AttributeError, RuntimeError):
                text = text.replace(layer.client_prefix, "CLIENT")
        text = re.sub(r"[0-9a-f]{32}", "HEX", text.replace(self.prefix, "PREFIX"))
        # Upstream's Python may be another, and newer ones say more, or the same in other words.
        text = re.sub(r"\. Did you mean '\w+'\?", "", text)
        text = re.sub(
            r"without an implementation for abstract methods ([\w', ]+)",
            lambda found: "with abstract methods " + found[1].replace("'", ""),
            text,
        )
        return re.sub(r" at 0x[0-9a-f]+", "", text.replace(self.package, "PACKAGE"))

    @contextlib.contextmanager
    def log(self) -> Iterator[list[logging.LogRecord]]:
        """What the package logs in here, at every level."""
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign]
        logger = logging.getLogger(self.package)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            yield records
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


Run = Callable[[Kit], Any]
CASES: dict[str, Run] = {}


def add(name: str, run: Run) -> None:
    assert name not in CASES, name
    CASES[name] = run


def case(name: str) -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        add(name, run)
        return run

    return register


def show(value: Any) -> str:
    """A value with its type, short enough for a report and exact enough to tell it from any other."""
    text = ascii(value)
    if len(text) > 200:
        text = f"{text[:40]}... {len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return text if type(value).__module__ == "builtins" else f"{type(value).__name__}: {text}"


async def outcome(kit: Kit, run: Run) -> str:
    async def perform() -> Any:
        value = run(kit)
        return await value if asyncio.iscoroutine(value) or isinstance(value, asyncio.Future) else value

    try:
        return kit.plain("returned " + show(await asyncio.wait_for(perform(), PATIENCE)))
    except Exception as error:
        return kit.plain(f"raised {type(error).__name__}: {str(error)!a}")


async def perform(package: str, url: str, prefix: str) -> dict[str, str]:
    """The outcomes of all cases, by name."""
    kit = Kit(package, url, prefix)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {name: await outcome(kit, run) for name, run in CASES.items()}
    finally:
        await kit.close()


# Names.


class Text(str):
    """A str, and not one exactly."""

    __slots__ = ()


CHANNEL_NAMES: list[Any] = [
    "a",
    "general",
    "With-All_the.9signs",
    "a!",
    "a!b",
    "a!\u00fc",
    "a.b!c-d_e.f",
    "x" * 99,
    "x" * 100,
    "x" * 50 + "!" + "y" * 48,
    "x" * 50 + "!" + "y" * 49,
    "name\n",
    "name\n\n",
    "na\nme",
    "a!b\n",
    "\u0663",
    "a\u0663!\u0663",
    Text("subclass"),
    Text("sub class"),
    "",
    "!",
    "!b",
    "a!b!c",
    "a!!",
    "a b",
    " a",
    "a ",
    "a:b",
    "a/b",
    "a*",
    "a!b:c",
    "\u00fc",
    "\ud800",
    "a!\ud800",
    "a\0",
    "\U0001f600",
    b"bytes",
    None,
    5,
    1.5,
    True,
    [],
    ["a"],
    ("a",),
    {},
]

GROUP_NAMES: list[Any] = [*CHANNEL_NAMES, "room", "a.b-c_d", "x" * 98]


def add_names() -> None:
    def caller(method: str, *arguments: Any, **options: Any) -> Run:
        return lambda kit: getattr(kit.core(), method)(*arguments, **options)

    def receiver(name: Any) -> Run:
        async def receive(kit: Kit) -> Any:
            layer = kit.core()
            if layer.require_valid_channel_name(name) and "!" not in name:
                await layer.send(name, END)
            return await layer.receive(name)

        return receive

    for name in CHANNEL_NAMES:
        label = f"{type(name).__name__} {name!a}"
        add(f"core/names/receive/{label}", receiver(name))
        add(f"core/names/send/{label}", caller("send", name, {}))
        add(f"core/names/group_add channel/{label}", caller("group_add", "names", name))
        add(f"core/names/group_discard channel/{label}", caller("group_discard", "names", name))
        add(f"core/names/require_valid_channel_name/{label}", caller("require_valid_channel_name", name))
        add(f"core/names/for receive/{label}", caller("require_valid_channel_name", name, receive=True))
        add(f"core/names/valid_channel_names/{label}", caller("valid_channel_names", [name]))
        add(f"core/names/consistent_hash/{label}", caller("consistent_hash", name))
        if isinstance(name, str):
            add(f"core/names/non_local_name/{label}", caller("non_local_name", name))
    for name in GROUP_NAMES:
        label = f"{type(name).__name__} {name!a}"
        add(f"core/names/group_add/{label}", caller("group_add", name, "named"))
        add(f"core/names/group_send/{label}", caller("group_send", name, {}))
        add(f"core/names/group_discard/{label}", caller("group_discard", name, "named"))
        add(f"core/names/require_valid_group_name/{label}", caller("require_valid_group_name", name))
    for names in ([], None, "a", ("a",)):
        add(f"core/names/valid_channel_names of {names!r}", caller("valid_channel_names", names))


add_names()


PUBSUB_NAMES: list[Any] = [
    "general",
    "a!b",
    "",
    "a b",
    "a:b",
    "\u00fc",
    "x" * 300,
    "name\n",
    Text("subclass"),
    "\ud800",
    b"bytes",
    None,
    5,
    1.5,
    True,
    [],
]


def add_pubsub_names() -> None:
    def caller(method: str, *arguments: Any) -> Run:
        return lambda kit: getattr(kit.pubsub(), method)(*arguments)

    def adder(name: Any) -> Run:
        async def group_add(kit: Kit) -> Any:
            layer, channel = await kit.pubsub_channel("msgpack")
            try:
                return await layer.group_add(name, channel)
            finally:
                with contextlib.suppress(Exception):
                    await layer.group_discard(name, channel)

        return group_add

    def looker(name: Any, patience: float) -> Run:
        async def receive(kit: Kit) -> Any:
            """A receive that gets nothing: whether the name is taken at all."""
            try:
                return await asyncio.wait_for(kit.pubsub().receive(name), patience)
            except asyncio.TimeoutError:
                return "waits"

        return receive

    for name in PUBSUB_NAMES:
        label = f"{type(name).__name__} {ascii(name)[:40]}"
        add(f"pubsub/names/group_add of nobody's channel/{label}", caller("group_add", "room", name))
    for name in PUBSUB_NAMES:
        label = f"{type(name).__name__} {ascii(name)[:40]}"
        add(f"pubsub/names/send/{label}", caller("send", name, {}))
        # Time for an error that comes with the first command, where upstream has one to say.
        add(f"pubsub/names/receive/{label}", looker(name, 5.0 if name == "\ud800" else 0.02))
        add(f"pubsub/names/receive again/{label}", looker(name, 0.02))
        add(f"pubsub/names/group_send/{label}", caller("group_send", name, {}))
        add(f"pubsub/names/group_add/{label}", adder(name))
        add(f"pubsub/names/group_discard/{label}", caller("group_discard", name, "nobody"))
        add(f"pubsub/names/group_discard channel/{label}", caller("group_discard", "room", name))


add_pubsub_names()


@case("pubsub/names/what cannot be a name leaves nothing behind")
async def _(kit: Kit) -> Any:
    layer = kit.pubsub_class()(hosts=[kit.url], prefix=f"{kit.prefix}names")
    channel = await layer.new_channel()
    raised = []
    for call in (layer.receive("\ud800"), layer.group_add("\ud800", channel), layer.send("\ud800", {})):
        try:
            await call
        except UnicodeEncodeError as error:
            raised.append(type(error).__name__)
    return raised, await layer.flush(), await layer.flush()


# Messages.


class Colour(enum.IntEnum):
    RED = 1


class Kind(str, enum.Enum):
    CHAT = "chat"


class Listed(list[Any]):
    """A list, and not one exactly."""


class Mapped(dict[Any, Any]):
    """A dict, and not one exactly."""


Point = namedtuple("Point", "x y")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: dict[str, Any] = {
    "text": "x",
    "empty text": "",
    "text of 31": "x" * 31,
    "text of 32": "x" * 32,
    "text of 256": "x" * 256,
    "text of 65536": "x" * 65536,
    "1 MB of text": "x" * 2**20,
    "all of the plane": "".join(map(chr, range(0x3000))),
    "emoji": "\U0001f600",
    "nul": "a\0b",
    "lone surrogate": "a\ud800b",
    "surrogate pair apart": "\ud83d\ude00",
    "bytes": b"\x00\xff",
    "1 MB of bytes": bytes(range(256)) * 4096,
    "bytearray": bytearray(b"ab"),
    "memoryview": memoryview(b"ab"),
    "none": None,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "minus 33": -33,
    "2**31": 2**31,
    "2**63 - 1": 2**63 - 1,
    "2**64 - 1": 2**64 - 1,
    "-2**63": -(2**63),
    "2**64": 2**64,
    "-2**63 - 1": -(2**63) - 1,
    "2**100": 2**100,
    "float": 0.1,
    "minus zero": -0.0,
    "tiny": 5e-324,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "list": [1, "a", None],
    "empty list": [],
    "tuple": (1, (2, 3)),
    "nested": {"a": [{"b": {"c": [None, b"x" * 3, 1.5]}}]},
    "depth 400": nested(400),
    "depth 600": nested(600),
    "set": {1},
    "frozenset": frozenset({1}),
    "generator": (x for x in ()),
    "datetime": datetime.datetime(2024, 2, 29, 12, 0),
    "aware datetime": datetime.datetime(2024, 2, 29, 12, 0, tzinfo=datetime.timezone.utc),
    "date": datetime.date(2024, 2, 29),
    "timedelta": datetime.timedelta(1),
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=5),
    "complex": 1j,
    "object": object(),
    "object in a list": [object()],
    "function": show,
    "exception": ValueError("x"),
    "int enum": Colour.RED,
    "str enum": Kind.CHAT,
    "str subclass": Text("x"),
    "list subclass": Listed([1]),
    "dict subclass": Mapped(a=1),
    "ordered dict": OrderedDict(b=1, a=2),
    "named tuple": Point(1, 2),
    "timestamp": msgpack.Timestamp(5, 6),
    "ext type": msgpack.ExtType(5, b"ab"),
    "inner key of int": {1: 2},
    "inner key of tuple": {(1, 2): 3},
    "inner key of none": {None: 1},
    "inner reserved key": {"__asgi_channel__": "x"},
}

MESSAGES: dict[str, Any] = {
    "empty": {},
    "without type": {"a": 1},
    "type of none": {"type": None},
    "empty key": {"": 1},
    "key of int": {1: 2},
    "key of float": {1.5: 2},
    "key of bool": {True: 2},
    "key of none": {None: 2},
    "key of bytes": {b"a": 1},
    "key of tuple": {(1, 2): 3},
    "key of a str subclass": {Text("a"): 1},
    "key of a lone surrogate": {"\ud800": 1},
    "keys of both kinds": {"a": 1, 1: "a", b"a": None},
    "a key of 300": {"k" * 300: 1},
    "15 keys": {f"k{n}": n for n in range(15)},
    "16 keys": {f"k{n}": n for n in range(16)},
    "65535 keys": {f"k{n}": n for n in range(65535)},
    "65536 keys": {f"k{n}": n for n in range(65536)},
    "order of keys": {"z": 1, "a": 2, "m": 3},
    "a dict subclass": Mapped(type="x", a=1),
    "an ordered dict": OrderedDict(b=1, a=2),
    **{f"value {name}": {"type": "x", "value": value} for name, value in VALUES.items()},
    "reserved key of text": {"__asgi_channel__": "other"},
    "reserved key of a list": {"type": "x", "__asgi_channel__": ["other"]},
    "reserved key of none": {"__asgi_channel__": None},
    "none": None,
    "a list": [],
    "a list of pairs": [("type", "x")],
    "text": "text",
    "bytes": b"",
    "an int": 5,
    "a mapping that is no dict": types.MappingProxyType({"type": "x"}),
}


#: What takes long, for which one format must do.
LARGE = {"65535 keys", "65536 keys", "value 1 MB of bytes"}


async def received(layer: Any, channel: str) -> list[Any]:
    """All that comes on a channel, errors too, up to the end."""
    await layer.send(channel, END)
    got: list[Any] = []
    while not got or got[-1] != END:
        try:
            got.append(await layer.receive(channel))
        except Exception as error:
            got.append(f"{type(error).__name__}: {error}")
    return got[:-1]


def add_messages() -> None:
    def core(message: Any, format: str, kind: str, is_group: bool) -> Run:
        async def run(kit: Kit) -> Any:
            layer, channel = await kit.core_channel(kind, format)
            if is_group:
                back = await layer.group_send(f"{kind}.{format}", message)
            else:
                back = await layer.send(channel, message)
            return back, await received(layer, channel)

        return run

    def pubsub(message: Any, format: str, is_group: bool) -> Run:
        async def run(kit: Kit) -> Any:
            layer, channel = await kit.pubsub_channel(format)
            if is_group:
                back = await layer.group_send(f"room.{format}", message)
            else:
                back = await layer.send(channel, message)
            return back, await received(layer, channel)

        return run

    for (name, message), format in itertools.product(MESSAGES.items(), FORMATS):
        if name in LARGE and format != "msgpack":
            continue
        for kind, is_group in itertools.product(("specific", "general"), (False, True)):
            # What a value becomes has nothing to do with the kind of channel; what is beside it might.
            if kind == "specific" or not name.startswith("value") or (format == "msgpack" and not is_group):
                way = f"group of {kind}" if is_group else kind
                add(f"core/messages/{format}/{way}/{name}", core(message, format, kind, is_group))
        for is_group in (False, True):
            way = "group" if is_group else "specific"
            add(f"pubsub/messages/{format}/{way}/{name}", pubsub(message, format, is_group))


add_messages()


@case("core/messages/a group without members takes anything")
async def _(kit: Kit) -> Any:
    return await kit.core().group_send("nobody.here", None)


@case("core/messages/what is sent is left alone")
async def _(kit: Kit) -> Any:
    layer, message = kit.core(), {"type": "x", "list": [1], "dict": {"a": (1,)}}
    channel = await layer.new_channel()
    await layer.group_add("left.alone", channel)
    for send, target in ((layer.send, channel), (layer.send, "left.alone"), (layer.group_send, "left.alone")):
        await send(target, message)
    return message


@case("pubsub/messages/what is sent is left alone")
async def _(kit: Kit) -> Any:
    layer, message = kit.pubsub(), {"type": "x", "list": [1], "dict": {"a": (1,)}}
    await layer.send("nobody", message)
    await layer.group_send("nobody", message)
    return message


@case("core/messages/order on one channel")
async def _(kit: Kit) -> Any:
    layer = kit.core()
    channel = await layer.new_channel()
    for number in range(20):
        await layer.send(channel, {"n": number})
    return await received(layer, channel)


# Options. What is made says what it made of the option; what is refused says why.


class Odd:
    """Nothing that an option could be."""

    def __repr__(self) -> str:
        return "Odd"


SECONDS: list[Any] = [
    1,
    60,
    10**6,
    1.0,
    1.5,
    0,
    -1,
    0.5,
    2**31,
    2**40,
    float("nan"),
    float("inf"),
    True,
    "60",
    b"1",
    Odd(),
    [],
]
COUNTS: list[Any] = [0, 1, 10**9, 1.0, 1.5, -1, True, "100", b"1", None, Odd(), []]
KEYS: list[Any] = [
    None,
    [],
    (),
    ["k"],
    ("k",),
    [b"k"],
    ["new", "old"],
    [""],
    {"k"},
    "k",
    b"k",
    "",
    5,
    [5],
    [None],
    ["good", None],
    Odd(),
]
PREFIXES: list[Any] = ["", "a", "a b", "a*[?]\\", "\u00fc", ":", "\ud800", None, b"asgi", 5, [], Odd()]
HOSTS: list[Any] = [
    None,
    [],
    (),
    "",
    {},
    ["redis://h"],
    ["redis://h:1/2?socket_timeout=3"],
    ["rediss://user:secret@h:1"],
    ["unix:///path/to/socket?db=1"],
    [("h", 1)],
    [["h", 1]],
    [("h", "1")],
    [{"host": "h", "port": 1}],
    [{"host": "h"}],
    [{"address": "redis://h", "db": 2}],
    [{"address": "redis://h", "ssl_cert_reqs": "none"}],
    [{"path": "/path/to/socket"}],
    [{"sentinels": [("s", 1)], "master_name": "m"}],
    ["redis://h", ("h", 1), {"host": "h"}],
    ("redis://h",),
    "redis://h",
    b"redis://h",
    5,
    Odd(),
    {"host": "h"},
    [None],
    [5],
    [b"redis://h"],
    [()],
    [("h",)],
    [("h", 1, 2)],
    [("h", None)],
    [("h", "x")],
    [("h", 0)],
    [("h", 70000)],
    [(5, 1)],
    ["h:1"],
    ["http://h"],
    [""],
    ["redis://h:x"],
    [{"address": 5}],
    [{"address": "h"}],
    [{"hots": "h"}],
    [{5: "h"}],
    [{"port": "x"}],
    [{"master_name": "m"}],
    [{"sentinels": [("s", 1)]}],
    [{"address": "redis://h", "master_name": "m", "sentinels": [("s", 1)]}],
]
CAPACITIES: list[Any] = [
    None,
    {},
    {"http.request": 1},
    {"http.*": 2, "*": 3},
    {"http.response!*": 1},
    OrderedDict(a=1),
    {re.compile("^a+$"): 4},
    {"[ab]?": 0},
    {"": 1},
    {"a": 1.5},
    {"a": -1},
    {"a": True},
    {"a": None},
    {"a": "5"},
    {5: 5},
    {b"a": 5},
    {None: 5},
    [],
    [("a", 5)],
    "a",
    5,
    Odd(),
]
FORMAT_NAMES: list[Any] = ["msgpack", "json", "yaml", "", "MSGPACK", None, b"json", 5, [], Odd()]
TYPES: list[Any] = [None, "lost", "", 5, b"lost", [], Odd()]
PREFIX_LENGTHS: list[Any] = [0, 1, 7, 8, 12, 100, -1, 1.5, True, "12", None, Odd()]

CORE_OPTIONS: dict[str, list[Any]] = {
    "hosts": HOSTS,
    "prefix": PREFIXES,
    "expiry": [*SECONDS, None],
    "group_expiry": [*SECONDS, None],
    "capacity": COUNTS,
    "channel_capacity": CAPACITIES,
    "symmetric_encryption_keys": KEYS,
    "random_prefix_length": PREFIX_LENGTHS,
    "serializer_format": FORMAT_NAMES,
}
PUBSUB_OPTIONS: dict[str, list[Any]] = {
    "hosts": HOSTS,
    "prefix": PREFIXES,
    "on_disconnect": TYPES,
    "on_reconnect": TYPES,
    "symmetric_encryption_keys": KEYS,
    "serializer_format": FORMAT_NAMES,
    "capacity": COUNTS,
    "channel_capacity": CAPACITIES,
    "expiry": [*SECONDS, None],
    "group_expiry": [60, None, "x"],
    "random_prefix_length": [12, None, "x"],
    "capasity": [5],
    "channel_layer": [None, Odd()],
}


def core_state(layer: Any) -> Any:
    """What a layer says of its options."""
    serializer = layer._serializer
    return {
        "hosts": layer.hosts,
        "ring_size": layer.ring_size,
        "prefix": layer.prefix,
        "expiry": layer.expiry,
        "group_expiry": layer.group_expiry,
        "capacity": layer.capacity,
        "capacities": [
            (name, layer.get_capacity(name)) for name in ("a", "aa", "b", "http.request", "http.response!x", "x.y")
        ],
        "serializer": type(serializer).__name__,
        "random_prefix_length": serializer.random_prefix_length,
        "serializer.expiry": serializer.expiry,
        "encrypts": serializer.crypter is not None,
    }


def changed(state: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if repr(value) != repr(plain[name])}


def add_options() -> None:
    def core(**options: Any) -> Run:
        async def run(kit: Kit) -> Any:
            return changed(core_state(kit.core_class()(**options)), core_state(kit.core_class()()))

        return run

    def pubsub(**options: Any) -> Run:
        async def run(kit: Kit) -> Any:
            layer = kit.pubsub_class()(**options)
            # Upstream looks at most options when the layer is first used in a loop.
            got = {"prefix": layer.prefix, "on_disconnect": layer.on_disconnect, "on_reconnect": layer.on_reconnect}
            serializer = type(layer._serializer).__name__, layer._serializer.crypter is not None
            plain = {
                "prefix": "asgi",
                "on_disconnect": None,
                "on_reconnect": None,
                "serializer": ("MsgPackSerializer", False),
            }
            return changed({**got, "serializer": serializer}, plain)

        return run

    for kind, options, run in (("core", CORE_OPTIONS, core), ("pubsub", PUBSUB_OPTIONS, pubsub)):
        for option, values in options.items():
            for value in values:
                # Newer Pythons show it in another way.
                name = f"OrderedDict({dict(value)!a})" if isinstance(value, OrderedDict) else ascii(value)
                add(f"{kind}/options/{option}/{name}", run(**{option: value}))
    add("core/options/unknown", core(capasity=5))
    add("core/options/hosts/a generator", core(hosts=(host for host in ["redis://h"])))


add_options()


@case("core/options/none")
async def _(kit: Kit) -> Any:
    return core_state(kit.core_class()())


@case("core/options/by position")
async def _(kit: Kit) -> Any:
    return core_state(kit.core_class()(["redis://h:1"], "p", 1, 2, 3, {"a": 4}, ["key"], 5, "json"))


@case("core/options/by too many positions")
async def _(kit: Kit) -> Any:
    return core_state(kit.core_class()(["redis://h:1"], "p", 1, 2, 3, {"a": 4}, ["key"], 5, "json", 6))


@case("core/options/a dict of hosts is left alone")
async def _(kit: Kit) -> Any:
    host = {"address": kit.url, "db": 0}
    layer = kit.core_class()(hosts=[host], prefix=kit.prefix)
    await layer.send("left.alone", {})
    await layer.close_pools()
    return {**host, "address": host["address"] == kit.url}


@case("pubsub/options/by position")
async def _(kit: Kit) -> Any:
    layer = kit.pubsub_class()(["redis://h:1"], "p", "down", "up")
    return layer.prefix, layer.on_disconnect, layer.on_reconnect


@case("pubsub/options/by five positions")
async def _(kit: Kit) -> Any:
    return kit.pubsub_class()(["redis://h:1"], "p", "down", "up", None).prefix


@case("pubsub/options/log")
async def _(kit: Kit) -> Any:
    with kit.log() as records:
        _ = kit.pubsub_class()(group_expiry=5, random_prefix_length=5).prefix
    return len(records)


# What a layer is.


@case("core/layer/str")
def _(kit: Kit) -> Any:
    return str(kit.core_class()(hosts=["redis://user:secret@h:1", ("h", 2)]))


@case("core/layer/repr")
def _(kit: Kit) -> Any:
    return repr(kit.core_class()())


@case("pubsub/layer/str")
def _(kit: Kit) -> Any:
    return str(kit.pubsub_class()())


@case("pubsub/layer/repr")
def _(kit: Kit) -> Any:
    return repr(kit.pubsub_class()())


#: By module: what has a name there, and what layers have, without being anything that a site is told to use.
PARTS = {
    "core": ["ChannelLock", "BoundedQueue", "RedisLoopLayer", "RedisChannelLayer", "ChannelFull"],
    "pubsub": ["RedisSingleShardConnection", "RedisPubSubLoopLayer", "RedisPubSubChannelLayer"],
    "serializers": ["MissingSerializer", "SerializersRegistry", "registry"],
    "utils": ["_consistent_hash", "decode_hosts", "create_pool"],
}
ATTRIBUTES = ["receive_single", "receive_buffer", "receive_count", "receive_lock", "hosts", "prefix", "expiry"]


def add_parts() -> None:
    for module, names in PARTS.items():
        for name in names:
            add(f"parts/{module}/{name}", lambda kit, module=module, name=name: hasattr(kit.part(module), name))
    for name in ATTRIBUTES:
        add(f"parts/layer/{name}", lambda kit, name=name: hasattr(kit.core(), name))


add_parts()


def add_layers() -> None:
    def bases(kind: str) -> Run:
        def run(kit: Kit) -> Any:
            layer_class = getattr(kit, f"{kind}_class")()
            return [base.__name__ for base in layer_class.__mro__ if base.__module__ == "channels.layers"]

        return run

    def attribute(kind: str, name: str) -> Run:
        return lambda kit: getattr(getattr(kit, kind)(), name)

    for kind in ("core", "pubsub"):
        add(f"{kind}/layer/is a Channels layer", bases(kind))
        for name in ("extensions", "MAX_NAME_LENGTH", "channel_name_regex", "invalid_name_error"):
            add(f"{kind}/layer/{name}", attribute(kind, name))
    for name in ("brpop_timeout", "ring_size", "client_prefix"):
        add(f"core/layer/{name}", attribute("core", name))
    add("core/layer/no such attribute", attribute("core", "nonsense"))
    add("pubsub/layer/no such attribute", attribute("pubsub", "nonsense"))


add_layers()


# What methods return.


def add_returns() -> None:
    def returned(kind: str, method: str, *arguments: Any, **options: Any) -> Run:
        async def run(kit: Kit) -> Any:
            value = getattr(getattr(kit, kind)(), method)(*arguments, **options)
            return await value if asyncio.iscoroutine(value) else value

        return run

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("new_channel", (), {}),
        ("new_channel", ("mine_",), {}),
        ("new_channel", (), {"prefix": "mine_"}),
        ("new_channel", ("",), {}),
        ("send", ("returned", {"type": "x"}), {}),
        ("send", (), {"channel": "returned", "message": {}}),
        ("send", ("returned",), {}),
        ("group_send", ("nobody", {"type": "x"}), {}),
        ("group_send", (), {"group": "nobody", "message": {}}),
        ("group_discard", ("nobody", "nobody"), {}),
        ("group_discard", (), {"group": "nobody", "channel": "nobody"}),
        ("close_pools", (), {}),
        ("wait_received", (), {}),
        ("deserialize", (b"",), {}),
        ("deserialize", (b"x" * 12 + b"\xc1",), {}),
        ("deserialize", (b"x" * 12 + b"\x81\xa1a\x01",), {}),
        ("deserialize", (b"\x81\xa1a\x01",), {}),
        ("deserialize", (None,), {}),
        ("serialize", (object(),), {}),
    ]
    for kind, (method, arguments, options) in itertools.product(("core", "pubsub"), calls):
        add(
            f"{kind}/returns/{method}{(*arguments, *options.items())!a}".split(" object at")[0],
            returned(kind, method, *arguments, **options),
        )
    for value in ("a", "\u00fc", b"\xff", ""):
        for ring_size in (1, 2, 3, 5, 16, 186, 1000):
            add(
                f"utils/_consistent_hash/{value!a} of {ring_size}",
                lambda kit, value=value, ring_size=ring_size: kit.part("utils")._consistent_hash(value, ring_size),
            )
    add(
        "utils/_consistent_hash/many",
        lambda kit: [kit.part("utils")._consistent_hash(f"c{n}", r) for r in (2, 3, 7, 186, 300) for n in range(500)],
    )
    for hosts in HOSTS:
        add(f"utils/decode_hosts/{hosts!a}", lambda kit, hosts=hosts: kit.part("utils").decode_hosts(hosts))
    hosts: dict[str, dict[str, Any]] = {
        "address": {"address": "redis://h:1/2"},
        "tls": {"address": "rediss://h:1"},
        "pair": {"host": "h", "port": 1},
        "sentinel": {"sentinels": [("s", 1)], "master_name": "m"},
        "no sentinels": {"master_name": "m"},
        "unknown address": {"address": "http://h"},
    }
    for name, host in hosts.items():
        add(f"utils/create_pool/{name}", lambda kit, host=host: type(kit.part("utils").create_pool(host)).__name__)
        add(f"utils/create_pool/{name}, host left alone", lambda kit, host=host: host)

    def kind_of_connection(host: dict[str, Any]) -> Run:
        return lambda kit: type(kit.part("utils").create_pool(host).make_connection()).__name__

    for name, host in {
        "path": {"path": "/path/to/socket"},
        "ssl": {"host": "h", "ssl": True},
        "plain": {"host": "h"},
        "tls": {"address": "rediss://h"},
        "unix": {"address": "unix:///path"},
    }.items():
        add(f"utils/create_pool/{name} connection", kind_of_connection(host))
    add("core/returns/create_pool(0)", lambda kit: type(kit.core().create_pool(0)).__name__)
    add("core/returns/create_pool(1)", lambda kit: kit.core().create_pool(1))


add_returns()


@case("core/returns/group_add, twice, and group_discard")
async def _(kit: Kit) -> Any:
    layer = kit.core()
    calls = [layer.group_add, layer.group_add, layer.group_discard, layer.group_discard]
    return [await call("returned", "returned") for call in calls]


@case("pubsub/returns/group_add, twice, and group_discard")
async def _(kit: Kit) -> Any:
    layer, channel = await kit.pubsub_channel("msgpack")
    calls = [layer.group_add, layer.group_add, layer.group_discard, layer.group_discard]
    return [await call("returned", channel) for call in calls]


@case("core/returns/receive and flush")
async def _(kit: Kit) -> Any:
    layer = kit.core_class()(hosts=[kit.url], prefix=f"{kit.prefix}flushed")
    channel = await layer.new_channel()
    await layer.send(channel, {"n": 1})
    first = await layer.receive(channel)
    await layer.send(channel, {"n": 2})
    await layer.group_add("room", channel)
    flushed = await layer.flush(), await layer.flush()
    await layer.group_send("room", {"n": 3})
    got = first, flushed, await received(layer, channel)
    await layer.flush()
    return got


@case("pubsub/returns/receive and flush")
async def _(kit: Kit) -> Any:
    layer = kit.pubsub_class()(hosts=[kit.url], prefix=f"{kit.prefix}flushed")
    channel = await layer.new_channel()
    receiving = asyncio.ensure_future(layer.receive(channel))
    while not receiving.done():
        await layer.send(channel, {"n": 1})
        await asyncio.wait([receiving], timeout=0.02)
    return await receiving, await layer.flush(), await layer.flush()


@case("core/returns/serialize and deserialize")
async def _(kit: Kit) -> Any:
    return [kit.core(**options).deserialize(kit.core(**options).serialize({"a": [1]})) for options in FORMATS.values()]


@case("pubsub/returns/serialize and deserialize")
async def _(kit: Kit) -> Any:
    return [
        kit.pubsub(**options).deserialize(kit.pubsub(**options).serialize({"a": [1]})) for options in FORMATS.values()
    ]


@case("core/returns/a receive that times out")
async def _(kit: Kit) -> Any:
    layer = kit.core()
    return await asyncio.wait_for(layer.receive(await layer.new_channel()), 0.05)


@case("pubsub/returns/a receive that times out")
async def _(kit: Kit) -> Any:
    layer = kit.pubsub()
    return await asyncio.wait_for(layer.receive(await layer.new_channel()), 0.05)


@case("core/returns/receive on another process' channel")
async def _(kit: Kit) -> Any:
    return await kit.core().receive("specific." + "0" * 32 + "!x")


def add_connections() -> None:
    async def ping(kit: Kit) -> Any:
        layer = kit.core()
        client = layer.connection(0)
        return type(client).__name__, client is layer.connection(0), await client.ping()

    add("core/connection/ping", ping)
    for index in (1, -1, "0", None, True):
        add(f"core/connection/{index!r}", lambda kit, index=index: kit.core().connection(index))


add_connections()


# Capacity.


def add_capacities() -> None:
    def filled(name: str, options: dict[str, Any]) -> Run:
        async def run(kit: Kit) -> Any:
            layer, sent = kit.core_class()(hosts=[kit.url], prefix=kit.prefix, **options), 0
            channel = f"{kit.name('full')}.{name}"
            try:
                while sent < 10:
                    await layer.send(channel, {"n": sent})
                    sent += 1
            except Exception as error:
                return sent, type(error).__name__, type(error).__module__, str(error).replace(channel, "CHANNEL")
            finally:
                await layer.close_pools()
            return sent

        return run

    for name, options in itertools.product(
        ("general", "x!local", "x.y!local"),
        ({"capacity": 0}, {"capacity": 3}, {"capacity": 3, "channel_capacity": {"*!*": 1, "*general": 2}}),
    ):
        add(f"core/capacity/{name}/{options}", filled(name, options))


add_capacities()


def add_over_capacity() -> None:
    def logged(shards: int, members: int, full: int, *, where: bool) -> Run:
        async def run(kit: Kit) -> Any:
            hosts = [kit.database(number) for number in range(shards)]
            layer = kit.core_class()(hosts=hosts, prefix=kit.prefix, capacity=1)
            group, channels = kit.name("crowd"), [f"{kit.name('member')}!x" for _ in range(members)]
            try:
                for channel in channels:
                    await layer.group_add(group, channel)
                for channel in channels[:full]:
                    await layer.group_add("filler", channel)
                await layer.group_send("filler", {})
                with kit.log() as records:
                    await layer.group_send(group, {})
                # One line for each shard; the order of shards is nobody's business.
                return sorted(
                    record.name if where else (record.levelname, record.getMessage().replace(group, "GROUP"))
                    for record in records
                    if record.levelno >= logging.INFO
                )
            finally:
                await layer.flush()

        return run

    for shards, members, full in ((1, 1, 0), (1, 1, 1), (1, 5, 2), (1, 3, 3), (3, 30, 30), (5, 20, 7)):
        add(f"core/log/{full} of {members} on {shards}", logged(shards, members, full, where=False))
    add("core/log/logger", logged(1, 1, 1, where=True))


add_over_capacity()


# Serializers.


def add_serializers() -> None:
    async def registering(kit: Kit, serializer: Any) -> Any:
        return kit.part("serializers").SerializersRegistry().register_serializer("mine", serializer)

    class Duck:
        def serialize(self, message: Any) -> bytes:
            return b""

        def deserialize(self, message: bytes) -> Any:
            return {}

    for name, serializer in (("a duck", Duck), ("an object", Duck()), ("a class of neither", Odd), ("none", None)):
        add(f"serializers/register/{name}", lambda kit, serializer=serializer: registering(kit, serializer))
    for name in ("json", "msgpack", "yaml", None):
        add(
            f"serializers/get/{name}",
            lambda kit, name=name: type(kit.part("serializers").registry.get_serializer(name)).__name__,
        )
    add("serializers/error is a KeyError", lambda kit: kit.part("serializers").SerializerDoesNotExist.__mro__[1:4])
    add("serializers/the base is abstract", lambda kit: kit.part("serializers").BaseMessageSerializer())
    for name, keys in itertools.product(("MsgPackSerializer", "JSONSerializer"), KEYS):
        add(
            f"serializers/{name}/{keys!a}",
            lambda kit, name=name, keys=keys: (
                getattr(kit.part("serializers"), name)(symmetric_encryption_keys=keys).crypter is not None
            ),
        )
    for name in ("MsgPackSerializer", "JSONSerializer"):
        add(
            f"serializers/{name}/as_bytes",
            lambda kit, name=name: getattr(kit.part("serializers"), name)().as_bytes({"a": "\u00fc", "b": [1.5, None]}),
        )
        add(
            f"serializers/{name}/serialize",
            lambda kit, name=name: getattr(kit.part("serializers"), name)().serialize({"a": "\u00fc"}),
        )
        add(
            f"serializers/{name}/prefix",
            lambda kit, name=name: len(getattr(kit.part("serializers"), name)(random_prefix_length=7).serialize({})),
        )


add_serializers()


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the outcomes of all cases as JSON.")
    parser.add_argument("--package", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--prefix", required=True)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(perform(options.package, options.url, options.prefix))))


if __name__ == "__main__":
    main()
