"""Both packages answer alike, case by case, but for what docs/differences.md says.

The cases are those of `parity.py`, run here in this process and on channels_redis in one of its own. The table is held
to what is found: a case that differs needs a row, a row needs a case that differs or a scenario that shows it, and each
scenario needs a row.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.server import Server, start_server
from tests import scenarios, scenarios_pubsub
from tests.conftest import ROOT
from tests.interop import parity
from tests.interop.parity import CASES, OURS, UPSTREAM

DOCUMENT = ROOT / "docs" / "differences.md"
SCENARIOS = {**scenarios.SCENARIOS, **scenarios_pubsub.SCENARIOS}

#: The first test waits for all cases, on both packages.
pytestmark = pytest.mark.timeout(300)


# Where the packages differ, and why that is meant.


@dataclass(frozen=True)
class Difference:
    """
    Cases that differ. The three regular expressions are matched, joined and whole, against `NAME: THERE -> HERE`, so
    that each may refer to groups of those before it.
    """

    #: The row of docs/differences.md.
    row: str
    cases: str
    there: str
    here: str

    def explains(self, name: str, there: str, here: str) -> bool:
        return re.fullmatch(f"(?s){self.cases}: {self.there} -> {self.here}", f"{name}: {there} -> {here}") is not None


NO_DICT = r"(none|a list|a list of pairs|text|bytes|an int|a mapping that is no dict)"

DIFFERENCES: list[Difference] = [
    # Messages.
    Difference(
        "errors-name-the-destination",
        r"(core|pubsub)/messages/.*",
        r"raised (?P<type>\w+): (?P<quote>['\"])(?P<text>.*)(?P=quote)",
        r"raised (?P=type): (?P=quote)(?P=text) \(message for (channel|group) [\w.!]+\)(?P=quote)",
    ),
    Difference(
        "undecodable-skipped",
        r"(core|pubsub)/messages/(msgpack|encrypted)/.*key of tuple",
        r"returned \(None, \['ValueError: list is not allowed for map key when strict_map_key=True'\]\)",
        r"returned \(None, \[\]\)",
    ),
    Difference(
        "reserved-key",
        r"core/messages/\w+/(specific|general)/reserved key .*",
        r"raised AssertionError: ''",
        r"raised AssertionError: 'message holds the reserved key __asgi_channel__'",
    ),
    Difference(
        "reserved-key",
        r"core/messages/\w+/group of \w+/reserved key .*",
        r"returned \(None, \[\{.*\}\]\)",
        r"raised AssertionError: 'message holds the reserved key __asgi_channel__'",
    ),
    Difference(
        "message-is-a-dict",
        rf"core/messages/(\w+/group of \w+/{NO_DICT}|a group without members takes anything)",
        r"(raised AttributeError: .*|returned \(None, \[\{'type': 'x'\}\]\)|returned None)",
        r"raised AssertionError: 'message is not a dict'",
    ),
    Difference(
        "message-is-a-dict",
        r"pubsub/messages/\w+/(specific|group)/none",
        r"(returned \(None, .*\)|raised TypeError: .*)",
        r"raised TypeError: 'a message must not be None .*",
    ),
    Difference(
        "keys-are-readable",
        r"(core|pubsub)/messages/(msgpack|encrypted)/.*key.*",
        r"returned \(None, \['ValueError: \w+ is not allowed for map key when strict_map_key=True'\]\)",
        r"returned \(None, \[\{.*\}\]\)",
    ),
    # Names.
    Difference(
        "pubsub-names-are-text",
        r"pubsub/names/(send|receive|receive again|group_send|group_add|group_discard)"
        r"/(bytes|NoneType|int|float|bool|list) .*",
        r"(returned .*|raised (DataError|TypeError): .*)",
        r"raised TypeError: .*must be a string, not \w+'",
    ),
    Difference(
        "pubsub-names-are-text",
        r"pubsub/names/receive again/str '\\ud800'",
        r"returned 'waits'",
        r"raised UnicodeEncodeError: .*",
    ),
    # Options.
    Difference(
        "options-are-checked",
        r"(core|pubsub)/options/(?P<option>prefix|expiry|group_expiry|channel_capacity|capacity|random_prefix_length"
        r"|symmetric_encryption_keys|on_disconnect|on_reconnect|serializer_format)/.*",
        r"(returned|raised) .*",
        r"raised (TypeError|ValueError|SerializerDoesNotExist): .*(?P=option).*",
    ),
    Difference(
        "options-are-checked",
        r"serializers/(MsgPack|JSON)Serializer/\[.*\]",
        r"raised TypeError: 'object supporting the buffer API required'",
        r"raised ValueError: 'symmetric_encryption_keys must hold strings or bytes; one of them is \w+'",
    ),
    Difference(
        "hosts-are-checked",
        r"((core|pubsub)/options/hosts|utils/decode_hosts)/.*",
        r"(returned .*|raised (TypeError|ValueError|IndexError): .*)",
        r"raised (TypeError|ValueError): .*hosts.*",
    ),
    Difference(
        "port-numbers",
        r"(core/options/hosts|utils/decode_hosts)/\[\('h', '1'\)\]",
        r"returned (?P<before>.*)'1'(?P<after>.*)",
        r"returned (?P=before)1(?P=after)",
    ),
    Difference(
        "tls-keywords",
        r"(core/options/hosts|utils/decode_hosts)/\[\{'address': 'redis://h', 'ssl_cert_reqs': 'none'\}\]",
        r"returned (?P<before>.*), 'ssl_cert_reqs': 'none'(?P<after>.*)",
        r"returned (?P=before)(?P=after)",
    ),
    Difference(
        "option-numbers",
        r"core/options/((expiry|group_expiry|capacity|random_prefix_length)/'\d+'|capacity/\d+\.0)",
        r"returned .*",
        # What is shown are the attributes that are not the default.
        r"returned (\{\}|\{'\w+': \d+(, .*)?\})",
    ),
    Difference(
        "more-hosts",
        r"utils/create_pool/(path|ssl) connection",
        r"(raised TypeError: .*|returned 'Connection')",
        r"returned '(UnixDomainSocketConnection|SSLConnection)'",
    ),
    Difference(
        "whole-seconds",
        r"core/options/(?P<option>expiry|group_expiry)/1\.\d",
        r"returned \{'(?P=option)': 1\.\d.*\}",
        r"returned \{'(?P=option)': 1(, 'serializer.expiry': 1)?\}",
    ),
    Difference(
        "pubsub-unknown-options",
        r"pubsub/options/(?P<option>capasity|channel_layer)/.*",
        # CPython 3.11 trips over an argument that is given twice.
        r"(returned \{\}|raised (TypeError|KeyError): .*)",
        r'raised TypeError: "RedisPubSubChannelLayer has no option \'(?P=option)\'(\.[^"]*)?"',
    ),
    Difference(
        "pubsub-unknown-options",
        r"core/options/unknown",
        r'raised TypeError: "RedisChannelLayer\.__init__\(\) got an unexpected keyword argument \'capasity\'"',
        r'raised TypeError: "RedisChannelLayer has no option \'capasity\'"',
    ),
    Difference("pubsub-unknown-options", r"pubsub/options/log", r"returned 0", r"returned 1"),
    Difference(
        "pubsub-is-one-class",
        r"pubsub/options/by five positions",
        r"raised TypeError: .*'channel_layer'.*",
        r"returned 'p'",
    ),
    # Layers.
    Difference("str-tells-no-password", r"core/layer/str", r"returned .*:secret@.*", r"returned .*\[.h:1., .h:2.\].*"),
    Difference(
        "str-tells-no-password", r"pubsub/layer/str", r"returned '<PACKAGE.* object>'", r"returned .*localhost:6379.*"
    ),
    Difference(
        "pubsub-is-a-channels-layer",
        r"pubsub/layer/is a Channels layer",
        r"returned \[\]",
        r"returned \['BaseChannelLayer'\]",
    ),
    Difference(
        "pubsub-is-a-channels-layer",
        r"pubsub/layer/(MAX_NAME_LENGTH|channel_name_regex|invalid_name_error)",
        r"raised AttributeError: .*",
        r"(returned .*|Pattern: .*)",
    ),
    Difference(
        "pubsub-is-one-class",
        r"pubsub/(layer/no such attribute|returns/wait_received\(\)|returns/send.*)",
        r"raised (?P<type>\w+): (?P<before>.*)RedisPubSubLoopLayer(?P<after>.*)",
        r"raised (?P=type): (?P=before)RedisPubSubChannelLayer(?P=after)",
    ),
    Difference("pubsub-close-pools", r"pubsub/returns/close_pools\(\)", r"raised AttributeError: .*", r"returned None"),
    Difference(
        "channel-full-says-which",
        r"core/capacity/.*",
        r"returned (?P<before>.*'ChannelFull', .*, ')'\)",
        r"returned (?P=before)CHANNEL'\)",
    ),
    Difference(
        "inner-parts",
        r"parts/(core/(ChannelLock|BoundedQueue|RedisLoopLayer)|pubsub/RedisSingleShardConnection"
        r"|serializers/MissingSerializer|layer/receive_\w+)",
        r"returned True",
        r"returned False",
    ),
    Difference("logger", r"core/log/logger", r"returned \['PACKAGE\.core'\]", r"returned \['PACKAGE'\]"),
    # Types stay, texts are our own.
    Difference("texts", r"core/connection/.*", r"raised ValueError: .*", r"raised ValueError: .*no shard.*"),
    Difference(
        "texts",
        r"serializers/(JSON|MsgPack)Serializer/.*",
        r"raised ValueError: .*",
        r"raised ValueError: .*takes a list.*",
    ),
    Difference("texts", r"serializers/register/.*", r"raised AssertionError: .*", r"raised AssertionError: .*"),
    Difference(
        "texts",
        r"pubsub/names/group_add of nobody's channel/.*",
        r"raised RuntimeError: .*",
        r"raised RuntimeError: .*of this process only.*",
    ),
]


# The comparison.


#: The rows that scenarios show, which fail on channels_redis and pass here: of `tests/scenarios.py` and
#: `tests/scenarios_pubsub.py`, by name. The other rows are shown by the cases of `DIFFERENCES` alone.
SHOWN_BY: dict[str, tuple[str, ...]] = {
    "idle-consumers": ("idle_consumers_live_on",),
    "few-connections": ("few_connections",),
    "synchronous-calls": ("synchronous_calls_share_a_connection",),
    "shard-of-specific-sends": ("specific_channels_on_two_servers",),
    "general-receive-on-all-shards": ("general_channel_on_two_servers",),
    "jobs-once": (
        "jobs_of_workers_on_one_server",
        "jobs_of_workers_on_two_servers",
    ),
    "cancelled-receives": (
        "cancelled_receives_on_specific_channels",
        "cancelled_receives_on_general_channels",
    ),
    "second-kind-of-channel": ("second_kind_of_channel_is_served",),
    "undecodable-skipped": (
        "garbage_on_a_specific_channel_is_skipped",
        "garbage_on_a_general_channel_is_skipped",
        "unreadable_payloads_are_skipped",
    ),
    "equal-messages": ("reseeding_random_overwrites_nothing",),
    "fork": ("forked_child_is_a_process_of_its_own",),
    "members-own-their-message": ("group_members_own_their_message",),
    "trim-on-the-right-shard": ("group_send_trims_where_the_channel_is",),
    "pubsub-outages": ("outages_are_told",),
    "pubsub-blindness": ("no_blindness_after_an_error",),
    "pubsub-acknowledged": ("subscriptions_are_awaited",),
    "pubsub-polling": ("polling_loses_nothing",),
    "cancelled-receives-leave-nothing": ("cancelled_receives_leave_nothing",),
    "gone-consumers": ("messages_of_gone_consumers_expire",),
    "pubsub-bounds": ("what_waits_is_bounded",),
    "flush-without-keys": ("flush_works_without_keys_command",),
    "flush-prefix": ("flush_leaves_other_prefixes_alone",),
    "scripts-declare-keys": ("scripts_declare_their_keys",),
    "pubsub-outside-a-loop": ("use_outside_a_loop",),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One of its own: the cases flush, use several databases, and are compared to the letter."""
    with start_server() as server:
        yield server


@pytest.fixture(scope="module")
def ours(server: Server) -> dict[str, str]:
    return asyncio.run(parity.perform(OURS, server.url, f"test{uuid.uuid4().hex[:12]}"))


@pytest.fixture(scope="module")
def upstream(server: Server, upstream_python: Path) -> dict[str, str]:
    command = [str(upstream_python), "-m", "tests.interop.parity", "--package", UPSTREAM]
    command += ["--url", server.url, "--prefix", f"test{uuid.uuid4().hex[:12]}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    outcomes: dict[str, str] = json.loads(run.stdout)
    assert list(outcomes) == list(CASES)
    return outcomes


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """The rows of all tables in the document, by the anchor that each begins with."""
    found: list[str] = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|") or set(line) <= set("|-") or "what to do" in line:
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        anchor = re.match(r'<a id="([a-z0-9-]+)"></a>', cells[0])
        assert anchor, f"not an anchor: {cells[0]}"
        assert anchor[1] not in found, f"{anchor[1]} is there twice"
        assert len(cells) == 3, f"{anchor[1]} has {len(cells)} cells"
        assert all(cells), f"{anchor[1]} has an empty cell"
        found.append(anchor[1])
    return found


def explained(name: str, there: str, here: str) -> list[str]:
    return [difference.row for difference in DIFFERENCES if difference.explains(name, there, here)]


def area_of(name: str) -> str:
    return "/".join(name.split("/")[:2])


@pytest.mark.parametrize("area", sorted({area_of(name) for name in CASES}))
def test_cases(area: str, upstream: dict[str, str], ours: dict[str, str]) -> None:
    """Alike, or different in the one way that a row is about."""
    wrong = [
        f"{name}\n  channels_redis: {upstream[name]}\n  here:           {ours[name]}\n  rows: {found or 'none'}"
        for name in CASES
        if area_of(name) == area and upstream[name] != ours[name]
        if len(set(found := explained(name, upstream[name], ours[name]))) != 1
    ]
    assert not wrong, "\n".join(wrong)


def test_no_case_hangs(upstream: dict[str, str], ours: dict[str, str]) -> None:
    """Two that hang would be alike. Only the receives that are to time out do."""
    for outcomes in (upstream, ours):
        late = [name for name, outcome in outcomes.items() if "TimeoutError" in outcome]
        assert late == ["core/returns/a receive that times out", "pubsub/returns/a receive that times out"]


def test_each_difference_is_found(upstream: dict[str, str], ours: dict[str, str]) -> None:
    unused = [
        difference
        for difference in DIFFERENCES
        if not any(
            upstream[name] != ours[name] and difference.explains(name, upstream[name], ours[name]) for name in CASES
        )
    ]
    assert not unused, f"no case differs like that: {unused}"


def test_each_row_is_shown_and_what_is_shown_has_a_row(rows: list[str]) -> None:
    assert {difference.row for difference in DIFFERENCES} | set(SHOWN_BY) == set(rows)


def test_each_scenario_shows_a_row() -> None:
    assert {name for names in SHOWN_BY.values() for name in names} == set(SCENARIOS)


def test_links_to_rows_lead_somewhere(rows: list[str]) -> None:
    for document in DOCUMENT.parent.glob("*.md"):
        for anchor in re.findall(r"differences\.md#([\w-]+)", document.read_text(encoding="utf-8")):
            assert anchor in rows, f"{document.name} points to {anchor}, which is no row"
