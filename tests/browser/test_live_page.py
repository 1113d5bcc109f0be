"""The live page in a real browser, beside a room in which something happens."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from bench.server import HOST
from tests.browser.conftest import Site, Window
from tests.browser.test_chat import enter, say
from tests.places import wait_until

Open = Callable[[str], Window]

#: Has a page find no WebSocket, as behind a proxy that passes none.
WITHOUT_SOCKETS = """
window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006 })); } };
WebSocket.OPEN = 1;
"""


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


def test_the_page_moves(window: Open, site: Site) -> None:
    """Groups, connections and lines; and it says when its site is gone, and goes on when that is back."""
    address = f"http://{HOST}:{site.ports[0]}"
    room = f"r{uuid.uuid4().hex[:8]}"
    ada, _ = enter(window, address, room, "Ada"), enter(window, address, room, "Ben")
    page = window(f"{address}/layers/")
    wait_until(lambda: page.text("#state") == "live", "it has a WebSocket")
    rows = f".row:has([title^='room.{room}'])"
    wait_until(lambda: any("2 members" in row for row in page.texts(rows)), "the room is there with its members")
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


def test_the_page_polls_without_a_socket(window: Open, site: Site) -> None:
    page = window("about:blank")
    page.run("return 0")
    page._driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WITHOUT_SOCKETS})
    page._driver.get(f"http://{HOST}:{site.ports[0]}/layers/")
    wait_until(lambda: page.text("#state") == "polling", "it polls")
    before = drawn(page)
    wait_until(lambda: drawn(page) != before, "it moves")
