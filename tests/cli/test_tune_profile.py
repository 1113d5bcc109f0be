"""Where `tune` takes a workload from, and what it says of what it cannot take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from channels_redis_fast.cli import values
from channels_redis_fast.cli.deployment import UsageError
from channels_redis_fast.cli.tune.profile import as_fields, read_file, workload_of
from channels_redis_fast.cli.tune.workload import Workload


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20ms", 0.02), ("1.5 s", 1.5), ("2m", 120), ("250us", 0.00025), ("250\u00b5s", 0.00025),
        ("250\u03bcs", 0.00025), (".5s", 0.5), ("1h", 3600), ("0", 0), (0, 0),
    ],
)  # fmt: skip
def test_times(text: Any, expected: float) -> None:
    assert values.seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "ms", "-1s", "1 year", "1s 2s", -1, True, None, [1], float("nan"), float("inf")])
def test_what_is_no_time(text: Any) -> None:
    with pytest.raises(ValueError, match="a time such as 20ms"):
        values.seconds(text)
    with pytest.raises(ValueError, match="a time such as 20ms"):
        values.seconds_within(0, 10)(text)


@pytest.mark.parametrize("value", ["20", "20.0", " 20 ", 20, 20.0])
def test_a_time_without_a_unit_may_be_meant_as_another(value: Any) -> None:
    with pytest.raises(ValueError, match=r"a time with its unit \(write 20ms or 20s\), not '?"):
        values.seconds(value)
    # Where the option says seconds, it is those.
    assert values.seconds_within(1, 60)(value) == 20


def test_sizes_and_shares() -> None:
    assert [values.size(text) for text in ("200", "2kB", "1KiB", 7)] == [200, 2000, 1024, 7]
    assert [values.share(text) for text in ("0.1%", "0.25", 0, "99 %")] == pytest.approx([0.001, 0.25, 0, 0.99])
    for wrong in ("0", "65MB"):
        with pytest.raises(ValueError, match="from 1 byte"):
            values.size(wrong)
    with pytest.raises(ValueError, match="a size such as"):
        values.size("1 GB")
    for wrong in ("150%", "100%"):
        with pytest.raises(ValueError, match=f"a share below 100%, not {wrong}"):
            values.share(wrong)
    for bare in ("1", "1.0", 1):
        with pytest.raises(ValueError, match=r"write 1%"):
            values.share(bare)
    with pytest.raises(ValueError, match=r"write 2\.5%"):
        values.share("2.5")


def test_rates() -> None:
    assert [values.rate(text) for text in ("40", 40, "40/s", "600/min", "36 /h")] == pytest.approx(
        [40, 40, 40, 10, 0.01]
    )
    with pytest.raises(ValueError, match="a rate such as 40"):
        values.rate("40ms")


@pytest.mark.parametrize("text", ["1.000", "1,000", "1e3", "10k", "1.0", ""])
def test_a_count_has_digits_only(text: str) -> None:
    with pytest.raises(ValueError, match="a whole number"):
        values.count(0)(text)
    assert values.count(0)("1000") == values.count(0)(1000.0) == 1000


def test_a_profile_holds_everything(tmp_path: Path) -> None:
    workload = Workload(
        service_time=0.02, to="group", rate=12.5, arrivals="regular", burst=7, burst_every=3, burst_length=0.5,
        size=900, consumers=4, processes=2, service="cpu", service_spread="exponential",
    )  # fmt: skip
    path = tmp_path / "profile.json"
    times = ("service_time", "burst_every", "burst_length")
    path.write_text(json.dumps({**as_fields(workload), **{name: f"{getattr(workload, name)}s" for name in times}}))
    assert workload_of(read_file(path)) == workload


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML is read from Python 3.11 on")
def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text('rate = 40\nservice_time = "15ms"\nto = "specific"\n')
    assert workload_of(read_file(path)) == Workload(service_time=0.015, rate=40, to="specific")
    path.write_text("rate = = 40")
    with pytest.raises(UsageError, match="is not TOML"):
        read_file(path)


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="has TOML")
def test_toml_before_python_had_it(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text("rate = 40\n")
    with pytest.raises(UsageError, match="write it as JSON"):
        read_file(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "profile.json is not JSON"),
        ("[1]", "must be an object"),
        ('{"speed": 1}', "no field 'speed'"),
        ('{"rate": "fast"}', "rate must be a rate"),
        ('{"rate": -1}', "rate must be a rate"),
        ('{"to": "everybody"}', "to must be one of general, specific, group"),
        ('{"consumers": 0}', "consumers must be from 1 to"),
        ('{"consumers": 1.5}', "consumers must be a whole number"),
        ('{"service_time": "soon"}', "service_time must be a time"),
        ('{"service_time": 20}', "service_time must be a time with its unit .write 20ms or 20s."),
        ('{"burst_every": "5"}', "burst_every must be a time with its unit"),
        ('{"service": null}', "service must be one of sleep, cpu"),
    ],
)
def test_what_is_wrong_in_a_profile_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_file(path)


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_file(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rate": 5}, "--service-time"),
        ({"service_time": 0.1}, "--rate"),
        ({"service_time": 0.1, "burst": 5, "burst_every": 0.0}, "--burst-every"),
        ({"service_time": 0.1, "burst": 5, "burst_every": 1.0, "burst_length": 2.0}, "overlap"),
    ],
)
def test_what_is_missing_in_a_workload(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        workload_of(fields)
