"""Names of test cases. They are the same in every process, so that a run can be spread over several."""

from __future__ import annotations

import re


def shown(value: object) -> str:
    """The value as Python writes it, without the address that some have."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))[:80]
