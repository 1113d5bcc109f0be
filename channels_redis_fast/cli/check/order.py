"""
Goes through everything that ``check`` examines: the settings, the cluster if there is one, each server, then one
message through the layer on each.

What cannot work after a problem is not tried, so that one cause is reported once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from django.core.checks import ERROR
from redis.exceptions import ConnectionError, RedisError

from ...base import RedisLayer
from ...checks import check_layers
from ...connection.hosts import host_label, is_cluster
from ...core import RedisChannelLayer
from ...pubsub import RedisPubSubChannelLayer
from ...survey.core import survey_core
from ...survey.line import Line, NodeLine
from ...survey.pubsub import survey_pubsub
from ...survey.server_facts import ask_facts
from ...survey.servers import Told, ask_cluster, lines
from ...survey.snapshot import Picture
from ..deployment import Deployment
from .cluster import check_cluster, check_node
from .findings import OK, PROBLEM, WARNING, Finding, Report, Subject
from .history import check_history
from .peers import check_peers
from .permissions import check_permissions
from .reach import check_reach
from .server import check_clock, check_facts, check_latency
from .trip import check_trips

#: Findings of the system check that are reported for the affected shard instead, where the server shows what is true.
TOLD_ELSEWHERE = ("channels_redis_fast.W004",)


async def check_all(place: Deployment, max_keys: int, saying: Callable[[str], None]) -> Report:
    """Check a deployment. ``saying`` is told what comes next; ``max_keys`` limits the keys examined per database."""
    layer = place.make_layer()
    report = Report(place.name, "core" if place.is_core else "pubsub", layer.prefix, time.time())
    if place.alias is not None:
        report.subjects.append(_check_settings(place))
    told: Told | None = None
    if is_cluster(layer.hosts[0]):
        saying(host_label(layer.hosts[0]))
        told = await ask_cluster(layer, "check")
        report.subjects.append(Subject(None, host_label(layer.hosts[0]), list(check_cluster(layer, told))))
    async with lines(layer, "check", told) as opened:
        subjects = [Subject(line.index, line.label) for line in opened]
        report.subjects += subjects
        usable: list[Line] = []
        for subject, line in zip(subjects, opened, strict=True):
            saying(line.label)
            try:
                if await _check_server(place, layer, line, subject, max_keys):
                    usable.append(line)
            except RedisError as error:
                subject.findings.append(
                    Finding(
                        PROBLEM, "connection", str(error), "The connection was lost during the check: run it again."
                    )
                )
        saying("a message on each server")
        async for index, finding in check_trips(place, usable):
            subjects[index].findings.append(finding)
    return report


def _check_settings(place: Deployment) -> Subject:
    subject = Subject(None, "settings")
    if place.is_twin:
        text = "the project uses channels_redis; the results below are for this package in its place"
        subject.findings.append(Finding(OK, "backend", text))
        return subject
    for message in check_layers():
        if message.id in TOLD_ELSEWHERE or message.is_silenced() or not message.msg.startswith(place.name):
            continue
        level = PROBLEM if message.level >= ERROR else WARNING
        text = message.msg.removeprefix(place.name).lstrip(": ")
        subject.findings.append(Finding(level, str(message.id).rpartition(".")[2], text, message.hint or ""))
    if not subject.findings:
        subject.findings.append(Finding(OK, "options", "no problems found"))
    return subject


async def _check_server(place: Deployment, layer: RedisLayer, line: Line, subject: Subject, max_keys: int) -> bool:
    """Add the findings about a server; return whether messages can be sent there, as far as could be seen."""
    findings = subject.findings
    findings += await check_reach(line)
    if subject.has_problem:
        return False
    subject.name = line.label
    on_cluster = isinstance(line, NodeLine)
    is_sharded = on_cluster or (isinstance(layer, RedisPubSubChannelLayer) and layer.sharded)
    facts = await ask_facts(line)
    keeps = "messages and groups" if place.is_core else None if layer._histories is None else "histories"
    findings += check_facts(facts, keeps, is_sharded, on_cluster)
    findings += check_history(layer, facts)
    if isinstance(line, NodeLine):
        findings += await check_node(line)
    # On a separate connection, because the commands may switch it to Pub/Sub.
    async with contextlib.aclosing(line.another()) as another:
        findings += await check_permissions(another, layer)
    is_usable = not subject.has_problem
    findings.append(await check_clock(line, getattr(layer, "expiry", None) or 60.0, place.is_core))
    findings.append(await check_latency(line))
    if not is_usable:
        return False
    picture = Picture(place.name, "core" if place.is_core else "pubsub", layer.prefix, time.time())
    if isinstance(layer, RedisChannelLayer):
        await survey_core(layer, [line], picture, max_keys)
    elif isinstance(layer, RedisPubSubChannelLayer):
        await survey_pubsub(layer, [line], picture, max_keys)
    (shard,) = picture.shards
    if shard.error is not None:
        raise ConnectionError(shard.error)
    findings += check_peers(picture, shard, place.is_twin)
    return True
