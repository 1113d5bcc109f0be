"""
A real browser, the example site that it visits, and a network that can be taken away from one of its windows.

Needs chromium and its driver, Debian's packages `chromium` and `chromium-driver`; without them the tests are skipped.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from bench.server import HOST, ForeignServer, Server, free_port
from examples.chat.__main__ import serve
from tests.conftest import remove_keys
from tests.consumers.processes import get
from tests.places import wait_until
from tests.proxy import Proxy

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def make_driver() -> Any:
    """Start the browser. Skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    if DRIVER is None or BROWSER is None:
        pytest.skip("needs a browser: Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # Without a sandbox, which root has not.
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{argument}")
    # The windows behind the first one count as seen.
    options.add_argument("--disable-background-timer-throttling")
    options.add_argument("--disable-renderer-backgrounding")
    options.add_argument("--disable-backgrounding-occluded-windows")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """One browser for all tests: starting it takes longer than most of them."""
    driver = make_driver()
    yield driver
    driver.quit()


class Window:
    """One window of the browser."""

    def __init__(self, driver: Any, address: str) -> None:
        self._driver = driver
        driver.switch_to.new_window("window")
        self._handle = driver.current_window_handle
        driver.get(address)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in this window; returns what it returns."""
        self._driver.switch_to.window(self._handle)
        return self._driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """The text of an element, "" if there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector
        )
        return found

    def write(self, selector: str, text: str) -> None:
        """Type text, as somebody at a keyboard does."""
        self._driver.switch_to.window(self._handle)
        self._driver.find_element("css selector", selector).send_keys(text)

    def narrow(self, width: int) -> None:
        """Give this window the width of a phone."""
        self._driver.switch_to.window(self._handle)
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def errors(self) -> list[str]:
        """What went wrong in scripts since the last question; that a connection failed is none of that."""
        self._driver.switch_to.window(self._handle)
        log = self._driver.get_log("browser")
        return [entry["message"] for entry in log if entry["source"] in ("javascript", "security", "console-api")]

    def close(self) -> None:
        if self._handle not in self._driver.window_handles:
            return
        assert self.errors() == []
        self._driver.switch_to.window(self._handle)
        self._driver.close()
        self._driver.switch_to.window(self._driver.window_handles[0])


@pytest.fixture
def window(driver: Any) -> Iterator[Callable[[str], Window]]:
    """Open windows, which are closed at the end."""
    opened: list[Window] = []

    def open_window(address: str) -> Window:
        opened.append(Window(driver, address))
        return opened[-1]

    yield open_window
    for each in opened:
        each.close()


class Site:
    """The example, as two processes of it."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url, self._prefix = url, prefix
        self.ports = [free_port(), free_port()]
        self._processes = [self._start(port) for port in self.ports]

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        return serve(port, self._url, CHAT_PREFIX=self._prefix)

    def ready(self, index: int) -> None:
        """Return when a process answers."""

        def answers() -> bool:
            assert self._processes[index].poll() is None
            try:
                return get(self.ports[index], "/")[0] == 200
            except OSError:
                return False

        wait_until(answers, "the site answers", 60)

    def stop(self, index: int) -> None:
        self._processes[index].terminate()
        assert self._processes[index].wait(30) is not None

    def start(self, index: int) -> None:
        """Start a process that was stopped, on its port."""
        self._processes[index] = self._start(self.ports[index])
        self.ready(index)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def site(driver: Any, redis_server: Server | ForeignServer) -> Iterator[Site]:
    prefix = f"test{uuid.uuid4().hex[:12]}"
    site = Site(redis_server.url, prefix)
    try:
        for index in range(2):
            site.ready(index)
        yield site
    finally:
        site.end()
        remove_keys(redis_server.url, prefix)


class Network:
    """The way of one window to the site, which can be taken away."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxy = Proxy(port)
        self._do(self._proxy.accept())

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self._proxy.port}"

    def take_away(self) -> None:
        """End every connection, and take none."""

        async def refuse() -> None:
            self._proxy.refuse()

        self._do(refuse())

    def give_back(self) -> None:
        self._do(self._proxy.accept())

    def end(self) -> None:
        self._do(self._proxy.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def network(site: Site) -> Iterator[Network]:
    """To the site's first process."""
    network = Network(site.ports[0])
    try:
        yield network
    finally:
        network.end()
