"""
Whether messages can rely on a cluster: which servers describe it, which slots are served, and which replicas would take
over.

The first server that answers is trusted, as in the layer; each primary is asked for its own view. Read-only.
"""

from __future__ import annotations

from collections.abc import Iterator

from redis.exceptions import ResponseError

from ...base import RedisLayer
from ...cluster.slots import SLOTS
from ...survey.line import NodeLine
from ...survey.server_facts import is_refusal
from ...survey.servers import Told
from ..texts import counted
from .findings import OK, PROBLEM, UNSEEN, WARNING, Finding


def check_cluster(layer: RedisLayer, told: Told) -> Iterator[Finding]:
    """Report what the servers named in the settings answered about a layer's cluster."""
    named = layer.hosts[0]["cluster"]
    if not told.primaries:
        yield _untold(told)
        return
    if told.errors:
        some = "; ".join(f"{host}:{port}: {_text(host, port, error)}" for (host, port), error in told.errors.items())
        yield Finding(
            WARNING,
            "named servers",
            f"{len(told.errors)} of {len(named)} do not answer CLUSTER SLOTS: {some}",
            "The others do. Remove these from hosts[0]['cluster'], or replace them.",
        )
    elif len(named) == 1 and len(told.primaries) > 1:
        yield Finding(
            WARNING,
            "named servers",
            "only one: a process that starts while that server is down cannot connect",
            "Name two or three servers, or an address that always leads to one.",
        )
    else:
        yield Finding(OK, "named servers", f"{counted(len(named), 'server')} found")
    yield _slots(told)
    alone = [f"{host}:{port}" for (host, port), primary in told.primaries.items() if not primary.replicas]
    if alone:
        yield Finding(
            WARNING,
            "replicas",
            f"none for {', '.join(alone)}: if it fails, its slots are not served and its data is lost",
            "Add a replica for each primary: redis-cli --cluster add-node NEW OLD --cluster-slave.",
        )
    else:
        fewest = min(primary.replicas for primary in told.primaries.values())
        yield Finding(OK, "replicas", f"at least {fewest} for each of {counted(len(told.primaries), 'primary server')}")


async def check_node(line: NodeLine) -> list[Finding]:
    """
    Report how a primary sees its cluster.

    Raises ``redis.exceptions.ConnectionError`` naming the host.
    """
    item = "cluster"
    (info,) = await line.ask((b"CLUSTER", b"INFO"))
    if not isinstance(info, bytes):
        if is_refusal(info) is not None:
            return [Finding(UNSEEN, item, "the user may not use CLUSTER INFO")]
        return [
            Finding(
                PROBLEM,
                item,
                str(info),
                "Only servers of a cluster belong into 'cluster'; list others directly in 'hosts'.",
            )
        ]
    fields = dict(text.partition(":")[::2] for text in info.decode("utf-8", "replace").split())
    state = fields.get("cluster_state", "unknown")
    if state != "ok":
        failing = int(fields.get("cluster_slots_fail", "0")) + int(fields.get("cluster_slots_pfail", "0"))
        nobodys = SLOTS - int(fields.get("cluster_slots_assigned", "0"))
        why = f"{nobodys:,} slots are not assigned, {failing:,} belong to servers that fail"
        fix = "CLUSTER NODES shows which servers failed; redis-cli --cluster fix assigns slots that no server has."
        return [Finding(PROBLEM, item, f"cluster_state is {state}: {why}; it refuses all commands", fix)]
    slots = "" if line.slots is None else f", {line.slots:,} slots here"
    return [Finding(OK, item, f"cluster_state is ok{slots}, {fields.get('cluster_size', '?')} primaries with slots")]


def _slots(told: Told) -> Finding:
    covered = sum(primary.slots for primary in told.primaries.values())
    if covered < SLOTS:
        return Finding(
            PROBLEM,
            "slots",
            f"{SLOTS - covered:,} of {SLOTS:,} have no server: sends to channels in them fail, and all others too "
            "unless cluster-require-full-coverage is no",
            "Run redis-cli --cluster fix, or CLUSTER ADDSLOTSRANGE on one of the servers.",
        )
    most = max(primary.slots for primary in told.primaries.values())
    return Finding(OK, "slots", f"all {SLOTS:,} served; no server has more than {most / SLOTS:.0%} of them")


def _untold(told: Told) -> Finding:
    item = "slots"
    for (host, port), error in told.errors.items():
        if is_refusal(error) is not None:
            fix = "Allow it (ACL SETUSER USER +cluster|slots): a layer needs it to find the servers."
            return Finding(PROBLEM, item, f"{host}:{port} refuses CLUSTER SLOTS: {error}", fix)
        if isinstance(error, ResponseError):
            fix = "If the server is not part of a cluster, list it directly in 'hosts', without 'cluster'."
            return Finding(PROBLEM, item, f"{host}:{port}: {error}", fix)
    if told.errors:
        return Finding(PROBLEM, item, "none of the named servers can be reached", "The reasons are below.")
    return Finding(PROBLEM, item, f"none of {SLOTS:,} has a server", "Create the cluster: redis-cli --cluster create.")


def _text(host: str, port: int, error: Exception) -> str:
    return str(error).removeprefix(f"{host}:{port}: ")
