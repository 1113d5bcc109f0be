"""The pictures of docs/live.md and the README: `python -m tests.browser.screenshots`, with a browser and Pillow.

A site with some life in it, in both colour schemes. With `--phone`, pictures that nothing shows: to look at.
"""

from __future__ import annotations

import asyncio
import io
import random
import sys
import threading
import time
from typing import Any

from PIL import Image
from redis.exceptions import RedisError

from bench.server import HOST, Server, start_server
from channels_redis_fast.core import RedisChannelLayer
from tests.browser.conftest import Site, Window, make_driver
from tests.browser.test_chat import enter, is_connected, said, say
from tests.conftest import ROOT
from tests.places import wait_until

IMAGES = ROOT / "docs" / "images"
PREFIX = "chat"
#: So that the lines of the page are two minutes long.
SECONDS = 125.0


class Life(threading.Thread):
    """Other processes of the site, as far as Redis can tell: rooms with members, and workers that are behind."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.ended = threading.Event()

    def run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        chance = random.Random(7)
        config: dict[str, Any] = {"hosts": [self._url], "prefix": PREFIX}
        layers = [RedisChannelLayer(**config) for _ in range(3)]
        rooms = {f"room.{name}": size for name, size in (("lobby", 640), ("kitchen", 212), ("garden", 95), ("help", 31))}
        for room, size in rooms.items():
            for number in range(size):
                await chance.choice(layers).group_add(room, f"specific.x!{room}{number}")
        receiving = [asyncio.create_task(layer.receive(await layer.new_channel())) for layer in layers]
        for channel, count in (("thumbnails", 88), ("emails", 61), ("search.index", 100), ("exports", 12)):
            for number in range(count):
                await layers[0].send(channel, {"type": "job", "number": number})
        while not self.ended.is_set():
            await asyncio.sleep(0.05)
            wave = 4 + 3 * (time.monotonic() % 40 > 22)
            for _ in range(chance.randrange(wave)):
                try:
                    await layers[1].send("thumbnails" if chance.random() < 0.3 else "exports", {"type": "job"})
                except Exception:
                    await layers[2].receive("exports")
        for task in receiving:
            task.cancel()


def talk(windows: list[Window], ended: threading.Event) -> None:
    """Say something now and then, so that the rates of the site's own process are worth a look."""
    chance = random.Random(3)
    while not ended.is_set():
        window = chance.choice(windows)
        for number in range(chance.randrange(1, 5)):
            window.run(
                "document.getElementById('text').value = arguments[0];"
                "document.getElementById('form').requestSubmit();",
                f"{number}",
            )
        time.sleep(0.3 + chance.random())


def picture(driver: Any, window: Window, name: str, scheme: str, size: tuple[int, int]) -> None:
    """Take the picture of a window and keep it small: pages have few colours."""
    window.run("return 0")
    command = driver.execute_cdp_cmd
    command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    width, height = size
    command(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1.5 if width > 500 else 2, "mobile": width < 500},
    )
    time.sleep(1.5)
    shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    path = IMAGES / f"{name}-{scheme}.png"
    shot.quantize(colors=96, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path} {shot.size} {path.stat().st_size:,} bytes\n")


def main() -> None:
    """Make the pictures."""
    driver = make_driver()
    server: Server = start_server("--maxmemory", "64mb")
    site = Site(server.url, PREFIX)
    life = Life(server.url)
    try:
        life.start()
        for index in range(2):
            site.ready(index)
        first, second = (f"http://{HOST}:{port}" for port in site.ports)
        ada, ben = enter(lambda a: Window(driver, a), first, "lobby", "Ada"), enter(
            lambda a: Window(driver, a), second, "lobby", "Ben"
        )
        live = Window(driver, f"{first}/layers/")
        say(ada, "Is the deploy through?")
        say(ben, "Just now. Did your page notice?")
        say(ada, "It was away for two seconds, and I have missed nothing.")
        wait_until(lambda: len(said(ada)) == len(said(ben)) == 3 and is_connected(ada), "they talk")
        ben.write("#text", "And ")
        for scheme in ("light", "dark"):
            picture(driver, ada, "chat", scheme, (860, 430))
        eve = enter(lambda a: Window(driver, a), first, "kitchen", "Eve")
        fay = enter(lambda a: Window(driver, a), second, "kitchen", "Fay")
        ended = threading.Timer(float(sys.argv[-1]) if sys.argv[-1].isdecimal() else SECONDS, lambda: life.ended.set())
        ended.start()
        talk([eve, fay], life.ended)
        for scheme in ("light", "dark"):
            picture(driver, live, "live", scheme, (1180, 1010))
            if "--phone" in sys.argv:
                picture(driver, live, "phone", scheme, (390, 1900))
    except RedisError as error:
        sys.exit(str(error))
    finally:
        driver.quit()
        site.end()
        server.stop()


if __name__ == "__main__":
    main()
