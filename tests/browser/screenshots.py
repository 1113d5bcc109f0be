"""The pictures of docs/live.md: `python -m tests.browser.screenshots`, with a browser and Pillow.

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
from tests.browser.test_example_site import enter, is_connected, said, say
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
        own = [await layer.new_channel() for layer in layers]
        for room, size in (("lobby", 640), ("kitchen", 212), ("garden", 95), ("help", 31)):
            for number in range(size):
                index = number % len(layers)
                await layers[index].group_add(f"room.{room}", f"{own[index].partition('!')[0]}!{number}")
        receiving = [asyncio.create_task(layer.receive(name)) for layer, name in zip(layers, own, strict=True)]
        while not self.ended.is_set():
            for channel, count in (("thumbnails", 88), ("emails", 61), ("search.index", 100), ("exports", 30)):
                # What is never received expires.
                for _ in range(count - await layers[0].channel_depth(channel)):
                    await layers[0].send(channel, {"type": "job"})
            await asyncio.sleep(0.05)
            for _ in range(chance.randrange(4 + 3 * (time.monotonic() % 40 > 22))):
                await layers[1].send("exports", {"type": "job"})
                await layers[2].receive("exports")
        for task in receiving:
            task.cancel()


#: Says something now and then, now more and now less, so that the rates of the site's own process are worth a look.
TALK = """
setInterval(() => {
  if (Math.random() > 0.55 + 0.4 * Math.sin(Date.now() / 9000)) return;
  document.getElementById("text").value = "and so on";
  document.getElementById("form").requestSubmit();
}, 90);
"""


def picture(driver: Any, window: Window, name: str, scheme: str, size: tuple[int, int]) -> None:
    """Take the picture of a window and keep it small: pages have few colours."""
    window.run("return 0")
    command = driver.execute_cdp_cmd
    command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    command("Emulation.setScrollbarsHidden", {"hidden": True})
    width, height = size
    command(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1.5 if width > 500 else 2, "mobile": width < 500},
    )
    time.sleep(1.5)
    shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    path = IMAGES / f"{name}-{scheme}.png"
    # The rare colours count: they are the red ones.
    shot.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
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
        ada, ben = (
            enter(lambda a: Window(driver, a), first, "lobby", "Ada"),
            enter(lambda a: Window(driver, a), second, "lobby", "Ben"),
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
        for each in (eve, fay):
            each.run(TALK)
        time.sleep(float(sys.argv[-1]) if sys.argv[-1].isdecimal() else SECONDS)
        for scheme in ("light", "dark"):
            picture(driver, live, "live", scheme, (1180, 795))
            if "--phone" in sys.argv:
                picture(driver, live, "phone", scheme, (390, 1700))
    except RedisError as error:
        sys.exit(str(error))
    finally:
        life.ended.set()
        driver.quit()
        site.end()
        server.stop()


if __name__ == "__main__":
    main()
