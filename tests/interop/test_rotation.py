"""Encryption keys that are rotated process by process, in a fleet of both packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.interop.fleet import Fleet, Member
from tests.interop.options import NEW_KEY, OLD_KEY

#: In the order in which a process goes through them; the first key encrypts. A rotation in two phases leaves out the
#: second: while the first processes have the new key, those that do not cannot read what they send.
STEPS = {
    "old": [OLD_KEY],
    "old, new": [OLD_KEY, NEW_KEY],
    "new, old": [NEW_KEY, OLD_KEY],
    "new": [NEW_KEY],
}

#: What happens to a message in channels_redis that cannot be decrypted: the consumer that receives gets this.
UNREADABLE = {"$error": "InvalidToken"}


@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_processes_at_all_steps_of_a_rotation(
    kind: str,
    make_fleet: Callable[..., Fleet],
    open_layer: Callable[..., Member],
    upstream_fault: Callable[[str], None],
) -> None:
    """Who has a key reads what is encrypted with it, whoever sent it; who has not skips it, and gets the next message.

    Sent to channels and to a group with members at all steps.
    """
    fleet = make_fleet(kind, symmetric_encryption_keys=[NEW_KEY])
    steps: dict[Member, str] = {}
    for step, keys in STEPS.items():
        options = {**fleet.members[0].options, "symmetric_encryption_keys": keys}
        steps.update((open_layer(process, kind, **options), step) for process in ("ours-1", "theirs-1"))
    channels = {}
    for member in steps:
        [channels[member]] = member.new_channels(1)
        member.listen(channels[member])
    if kind == "pubsub":
        fleet.wait_for_subscriptions(dict.fromkeys(channels.values(), 1))
    for member, channel in channels.items():
        member.group_add("room", channel)
    if kind == "pubsub":
        room = fleet.group_channel("room")
        with fleet.raws[fleet.shard(room)].pubsub() as one_more:
            # Valkey 9.1 gives any number for eight subscribers, and the right one for nine.
            one_more.subscribe(room)
            fleet.wait_for_subscriptions({room: len(channels) + 1})
    for member in fleet.members:
        member.logged()

    expected: dict[Member, list[dict[str, Any]]] = {member: [] for member in steps}
    skipped = dict.fromkeys(steps, 0)

    def expect(sender: Member, receiver: Member, message: dict[str, Any]) -> None:
        if STEPS[steps[sender]][0] in STEPS[steps[receiver]]:
            expected[receiver].append(message)
        else:
            skipped[receiver] += 1
            if not receiver.is_ours:
                expected[receiver].append(UNREADABLE)

    for sender, step in steps.items():
        message = {"by": str(sender), "at": step}
        for receiver, channel in channels.items():
            sender.send(channel, {**message, "to": "channel"})
            expect(sender, receiver, {**message, "to": "channel"})
        sender.group_send("room", {**message, "to": "group"})
        for receiver in channels:
            expect(sender, receiver, {**message, "to": "group"})
    for receiver, channel in channels.items():
        heard = receiver.heard(channel, len(expected[receiver]))
        assert heard == expected[receiver], f"{receiver} at {steps[receiver]}"
        if receiver.is_ours:
            assert receiver.call("stats")["undecodable"] == skipped[receiver]
    ours, theirs = (
        sum(number for receiver, number in skipped.items() if receiver.is_ours == is_ours) for is_ours in (True, False)
    )
    assert sum("undecodable" in line for line in next(iter(steps)).logged()) == ours
    upstream_fault(f"{theirs} receives raised InvalidToken, which ends a consumer; ours skipped {ours} such messages")


@pytest.mark.parametrize("kind", ["core", "pubsub"])
@pytest.mark.parametrize("steps", [list(STEPS), ["old", "new, old", "new"]], ids=["with a step for it", "two phases"])
def test_rotation_process_by_process(
    kind: str, steps: list[str], make_fleet: Callable[..., Fleet], open_layer: Callable[..., Member]
) -> None:
    """Each process is restarted with the next keys while the others run; every one asks all others after each.

    With the step between, nothing is ever unreadable. In two phases it is what goes from processes that have the
    new key to those that do not yet, and nothing else.
    """
    fleet = make_fleet(kind, symmetric_encryption_keys=STEPS[steps[0]])
    names = [str(member) for member in fleet.members]
    crew = dict(zip(names, fleet.members, strict=True))
    at = dict.fromkeys(names, steps[0])
    channels = {}

    def listen(name: str) -> None:
        [channels[name]] = crew[name].new_channels(1)
        crew[name].listen(channels[name])
        if kind == "pubsub":
            fleet.wait_for_subscriptions({channels[name]: 1})

    for name in names:
        listen(name)
    heard = dict.fromkeys(names, 0)
    unreadable = set()
    for step in steps[1:]:
        for name in (names[2], names[0], names[3], names[1]):
            # A new layer is a new process: other names, other connections.
            options = {**crew[name].options, "symmetric_encryption_keys": STEPS[step]}
            crew[name], at[name], heard[name] = open_layer(name, kind, **options), step, 0
            listen(name)
            for sender in names:
                for receiver in names:
                    message = {"by": sender, "from": at[sender], "to": at[receiver]}
                    crew[sender].send(channels[receiver], message)
                    if STEPS[at[sender]][0] not in STEPS[at[receiver]]:
                        unreadable.add((at[sender], at[receiver]))
                        if crew[receiver].is_ours:
                            continue
                        message = UNREADABLE
                    heard[receiver] += 1
                    assert crew[receiver].heard(channels[receiver], heard[receiver])[-1] == message
    assert unreadable == (set() if "old, new" in steps else {("new, old", "old")})
