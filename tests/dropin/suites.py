"""
Which suites are run: where their sources come from, what they need, and how pytest is called. A table and nothing else.

Sources are a git repository at one commit, of which only what a suite needs is taken. A suite that has Channels'
in-memory layer gets each of the layers in its place (`plugin/drop_in.py`); one that imports `channels_redis` itself,
which is upstream's, gets that or this package by the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CHANNELS_REDIS, HERE = "channels_redis", "channels_redis_fast"
#: The packages whose results stand side by side, the one to be replaced first.
PACKAGES = (CHANNELS_REDIS, HERE)
LAYERS = ("core", "pubsub")

#: What the environment of each package has; it gets this repository's package from its sources.
UPSTREAM_REQUIREMENTS = ("channels_redis[cryptography]==4.3.0", "redis<8")

#: What all suites run with.
COMMON_REQUIREMENTS = (
    "Django>=5.2,<5.3",
    "channels[daphne]==4.3.2",
    "pytest>=8.4,<9",
    "pytest-asyncio>=1.2,<1.3",
    "pytest-django>=4.11,<5",
    "pytest-timeout>=2.4,<3",
    "async-timeout>=5,<6",
)

#: Tests of upstream's suite that look at its inner parts, and what they look at. An `AttributeError` says here what is
#: there instead (`channels_redis_fast/upstream.py`).
_INNER_PARTS = {
    "test_receive_buffer_respects_capacity": "receive_buffer",
    "test_loop_instance_channel_layer_reference": "_get_layer()",
    "test_multi_event_loop_garbage_collection": "_layers",
    "test_auto_reconnect": "_shards[0]._redis",
}

#: Tests that connect a client and read on. They expect that what the consumer sends on connecting is there as soon as
#: the connection is accepted, also what it sends after `group_add`, which does not wait for the server on
#: channels_redis' Pub/Sub layer. They fail on the core layers of both packages, and pass here with a `group_add` that
#: returns at once.
_RIGHT_AFTER_A_CONNECT = dict.fromkeys(
    (
        "test_logout_closes_connection",
        "test_send_subscribe_with_worker",
        "test_full_lifecycle",
        "test_connect",
        "test_empty_message",
        "test_incoming_missing_message_error",
        "test_internal_msg",
        "test_language_and_threading",
        "test_message_type_missing",
        "test_message_validation_error",
        "test_ping_receive",
        "test_pong_send",
        "test_send_error",
    ),
    "group_add waits until the server has the subscription",
)


@dataclass(frozen=True)
class Suite:
    """
    The suite of one project.

    ``paths``: what is taken of its repository at ``commit``, all if empty. ``layers``: those that take the place of
    Channels' in-memory layer; none where the suite imports `channels_redis` itself. ``arguments``: pytest's.
    ``replacements``: what is put in place of what in the Python files of the copy that is run, where the tests name
    the usual ports; `{redis}` and `{sentinel}` are those of our servers. ``intended_failures``: functions
    that are meant to fail here, and why. ``has_settings``: whether it has settings of pytest, without which pytest
    would look for some further up. ``remark``: what the table says of it.
    """

    name: str
    version: str
    repository: str
    commit: str
    requirements: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    layers: tuple[str, ...] = LAYERS
    arguments: tuple[str, ...] = ()
    replacements: tuple[tuple[str, str], ...] = ()
    intended_failures: Mapping[str, str] = field(default_factory=dict)
    has_settings: bool = True
    remark: str = ""

    @property
    def url(self) -> str:
        """Where it is cloned from."""
        return f"https://github.com/{self.repository}"


SUITES = (
    Suite(
        "channels_redis",
        "4.3.0",
        "django/channels_redis",
        "84986055bbaaafd46a826ab750b28e9773c6da4d",
        requirements=("cryptography",),
        paths=("tests", "setup.cfg"),
        layers=(),
        replacements=(
            ("redis://localhost:6379", "redis://localhost:{redis}"),
            ('("localhost", 26379)', '("localhost", {sentinel})'),
            # These take the default.
            ("RedisChannelLayer(expiry=", 'RedisChannelLayer(hosts=["redis://localhost:{redis}"], expiry='),
        ),
        intended_failures=_INNER_PARTS,
        remark="both layers, one server and Sentinel",
    ),
    Suite(
        "channels",
        "4.3.2",
        "django/channels",
        "15333cd7a59ba4fcafbbcb3089e41e1353624b2f",
        paths=("tests", "setup.cfg"),
        # The tests of the in-memory layer are about its inner parts; others need a browser.
        arguments=("tests", "--ignore=tests/test_inmemorychannel.py", "--ignore=tests/sample_project/tests"),
        remark="without the tests of its in-memory layer",
    ),
    Suite(
        "djangochannelsrestframework",
        "1.3.0",
        "NilCoalescing/djangochannelsrestframework",
        "408179734978bb4303f01d41869459c8de22ca25",
        requirements=("djangorestframework>=3.15.2,<4",),
    ),
    Suite(
        "strawberry-graphql",
        "0.324.0",
        "strawberry-graphql/strawberry",
        "53008d932ecb2b13d0fb8d8e55395b61e3fcd284",
        requirements=(
            *("graphql-core>=3.2,<3.4", "typing-extensions", "python-dateutil", "packaging", "cross-web", "markupsafe"),
            *("pytest-emoji<0.3", "pytest-mock<4", "pytest-snapshot<0.10", "inline-snapshot<0.36", "rich", "libcst<2"),
            *("email-validator<3", "python-multipart", "starlette", "aiohttp<4"),
        ),
        paths=("strawberry", "tests", "pyproject.toml"),
        arguments=("tests/channels",),
        remark="its tests of Channels",
    ),
    Suite(
        "channels-envelope",
        "1.1.0",
        "VoteIT/channels_envelope",
        "cf7edd226ff491b90feb433359bc7047c31b1ce4",
        requirements=("django-rq<3", "rq<2", "pydantic<2", "async-signals", "fakeredis"),
        arguments=("envelope", "--ds=dev_settings.settings"),
        has_settings=False,
        intended_failures=_RIGHT_AFTER_A_CONNECT,
    ),
)
