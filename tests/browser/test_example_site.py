"""
The example site in a real browser: what is said arrives, whatever happens to networks and processes; and its live page.

One file, so that pytest-xdist starts one browser.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest

from bench.server import HOST
from tests.browser.conftest import Network, Site, Window
from tests.places import wait_until

Open = Callable[[str], Window]

#: Seconds without a network.
AWAY = 3.0

#: Has a page find no WebSocket, as behind a proxy that passes none.
WITHOUT_SOCKETS = """
window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006 })); } };
WebSocket.OPEN = 1;
"""


@pytest.fixture
def room() -> str:
    return f"r{uuid.uuid4().hex[:8]}"


def enter(window: Open, site: str, room: str, name: str) -> Window:
    """Open a room as somebody; returns when the window is connected."""
    opened = window(f"{site}/room/{room}/?name={name}")
    wait_until(lambda: is_connected(opened), f"{name} is connected")
    return opened


def is_connected(window: Window) -> bool:
    return window.text("#state") == "connected"


def said(window: Window) -> list[str]:
    """What a window shows, oldest first, without what it has not sent yet."""
    texts: list[str] = window.run(
        "return [...document.querySelectorAll('#said li:not(.waits)')].map((item) => item.lastChild.textContent)"
    )
    return texts


def say(window: Window, *texts: str) -> None:
    for text in texts:
        window.write("#text", f"{text}\n")


def of_process(site: Site, index: int) -> str:
    return f"http://{HOST}:{site.ports[index]}"


def test_two_windows_talk(window: Open, site: Site, room: str) -> None:
    """Through two processes; and somebody who comes later sees what was said."""
    ada, ben = enter(window, of_process(site, 0), room, "Ada"), enter(window, of_process(site, 1), room, "Ben")
    ada.write("#text", "hel")
    wait_until(lambda: ben.text("#typing") == "Ada is typing", "Ben sees that Ada types")
    say(ada, "lo")
    wait_until(lambda: said(ben) == ["hello"], "Ben sees what Ada says")
    assert ben.text("#typing") == ""
    say(ben, "<b>hi</b>")
    wait_until(lambda: said(ada) == said(ben) == ["hello", "<b>hi</b>"], "both see both")
    assert said(enter(window, of_process(site, 0), room, "Cy")) == ["hello", "<b>hi</b>"]


def test_a_window_without_a_network_misses_nothing(window: Open, site: Site, network: Network, room: str) -> None:
    """Neither what others say meanwhile nor, for them, what is typed there."""
    ada, ben = enter(window, network.address, room, "Ada"), enter(window, of_process(site, 1), room, "Ben")
    say(ben, "before")
    wait_until(lambda: said(ada) == ["before"], "Ada sees what Ben says")
    network.take_away()
    began = time.monotonic()
    meanwhile = [str(number) for number in range(5)]
    say(ben, *meanwhile)
    wait_until(lambda: not is_connected(ada), "Ada's page notices")
    say(ada, "mine")
    assert said(ada) == ["before"]
    assert len(ada.texts("#said li.waits")) == 1
    time.sleep(max(0.0, began + AWAY - time.monotonic()))
    network.give_back()
    everything = ["before", *meanwhile, "mine"]
    wait_until(lambda: said(ada) == said(ben) == everything, "both have all of it, once and in order")
    assert ada.texts("#said li.waits") == []


def test_a_process_is_restarted(window: Open, site: Site, room: str) -> None:
    """As by a deploy: its visitors come back by themselves, and have what was said meanwhile."""
    ada, ben = enter(window, of_process(site, 0), room, "Ada"), enter(window, of_process(site, 1), room, "Ben")
    say(ada, "before")
    wait_until(lambda: said(ben) == ["before"], "Ben sees what Ada says")
    site.stop(0)
    wait_until(lambda: not is_connected(ada), "Ada's page notices")
    say(ben, "meanwhile")
    site.start(0)
    wait_until(lambda: is_connected(ada), "Ada is back")
    say(ada, "after")
    wait_until(lambda: said(ada) == said(ben) == ["before", "meanwhile", "after"], "both have all of it")


def test_who_is_online(window: Open, site: Site, room: str) -> None:
    """By name, once for all windows of one, through any process; and no longer when the last one has gone."""

    def online(seen_by: Window) -> list[str]:
        return seen_by.texts("#online li")

    ada, ben = enter(window, of_process(site, 0), room, "Ada"), enter(window, of_process(site, 1), room, "Ben")
    wait_until(lambda: online(ada) == online(ben) == ["Ada", "Ben"], "both see both")
    second = enter(window, of_process(site, 0), room, "Ben")
    assert online(second) == ["Ada", "Ben"]
    ben.close()
    second.close()
    wait_until(lambda: online(ada) == ["Ada"], "Ben's last window has gone")


# The live page.


def drawn(window: Window) -> list[str]:
    """The lines of all charts, as they are drawn at this moment."""
    lines: list[str] = window.run(
        "return [...document.querySelectorAll('.line')].map((line) => line.getAttribute('d'))"
    )
    return lines


def value_of(window: Window, title: str) -> str:
    """The first value of the chart that a title begins."""
    return str(
        window.run(
            "return [...document.querySelectorAll('.charts .card')]"
            ".find((card) => card.querySelector('h3').innerText.startsWith(arguments[0])).querySelector('b').innerText",
            title,
        )
    )


def test_the_live_page_moves(window: Open, site: Site, room: str) -> None:
    """Groups, connections and lines, beside a room in which something happens."""
    address = of_process(site, 0)
    ada, _ = enter(window, address, room, "Ada"), enter(window, address, room, "Ben")
    page = window(f"{address}/layers/")
    wait_until(lambda: page.text("#state") == "live", "it has a WebSocket")
    rows = f".row:has([title^='room.{room}'])"
    wait_until(lambda: any("2 members" in row for row in page.texts(rows)), "the room is there with its members")
    wait_until(lambda: any("2 users" in row for row in page.texts(rows)), "and who is present")
    wait_until(lambda: "core receiver" in page.text(".chips"), "connections by role")
    wait_until(lambda: value_of(page, "Deliveries") == "0", "nothing is said")
    before = drawn(page)
    say(ada, *(str(number) for number in range(5)))
    wait_until(lambda: value_of(page, "Deliveries") not in ("0", "–"), "the deliveries are seen")
    wait_until(lambda: all(b != a for b, a in zip(before, drawn(page), strict=True)), "every line moves")
    assert "not reachable" not in page.text("main").lower()
    # It fits a phone.
    page.narrow(360)
    assert page.run("return document.documentElement.scrollWidth") <= 360


def test_the_live_page_polls_without_a_socket(window: Open, site: Site) -> None:
    page = window("about:blank")
    page.run("return 0")
    page._driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WITHOUT_SOCKETS})
    page._driver.get(f"http://{HOST}:{site.ports[0]}/layers/")
    wait_until(lambda: page.text("#state") == "polling", "it polls")
    before = drawn(page)
    wait_until(lambda: drawn(page) != before, "it moves")
