"""The option ``presence``: how long a lease lasts, when a user counts as gone, and whether groups are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import options

#: Defaults of the option: seconds, seconds, and whether there are events.
LEASE, GRACE, EVENTS = 30, 5, True


class PresenceRules(NamedTuple):
    """
    ``lease``: seconds that a process' lease lasts. ``grace``: seconds for which a user stays present after the last
    channel has left. ``events``: whether groups are told who comes and who leaves.
    """

    lease: float
    grace: float
    events: bool

    @classmethod
    def of(cls, option: Any) -> PresenceRules | None:
        """
        Return the rules of the option's value, None for a layer without presence.

        Raises ``TypeError`` or ``ValueError`` naming the wrong part of the option.
        """
        if option is None:
            return None
        if not isinstance(option, Mapping):
            raise TypeError(f"Option 'presence' must be a dict or None, not {type(option).__name__}.")
        unknown = [name for name in option if name not in ("lease", "grace", "events")]
        if unknown:
            raise ValueError(
                f"Option 'presence' has an unknown key {unknown[0]!r}; it takes 'lease', 'grace' and 'events'."
            )
        lease = options.lease("presence['lease']", option.get("lease", LEASE))
        if lease is None:
            raise TypeError("Option 'presence['lease']' must be a number of seconds, not None.")
        given = option.get("grace", GRACE)
        # Zero is a valid number of seconds too.
        grace = 0.0 if given == 0 and not isinstance(given, bool) else options.duration("presence['grace']", given)
        if grace >= 2**31:
            raise ValueError(f"Option 'presence['grace']' must be less than 2**31 seconds; it is {grace}.")
        return cls(lease, grace, options.flag("presence['events']", option.get("events", EVENTS)))


def one_lease(lease: float | None, rules: PresenceRules | None, is_said: bool) -> float | None:
    """
    Return the duration of a layer's leases, from the option ``lease`` or from ``lease`` in ``presence``.

    ``is_said``: whether ``presence`` specifies one itself. Raises ``ValueError`` if both do and they differ.
    """
    if rules is None:
        return lease
    if lease is None:
        return rules.lease
    if is_said and lease != rules.lease:
        raise ValueError(
            f"Options 'lease' ({lease:g}) and 'presence['lease']' ({rules.lease:g}) are the same one: give it once."
        )
    return lease
