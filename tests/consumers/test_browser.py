"""The client's part as docs/resuming.md has it, run by Node.js with a socket that is played."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from channels_redis_fast.history.positions import Position
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "resuming.md"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js"),
    pytest.mark.skipif(not PAGE.exists(), reason="outside the source tree"),
]

#: Plays the server: each step is a frame, or what happens to the connection. Prints what the page was told.
PLAY = """
import { resumable } from "./client.mjs";
const [since, steps] = JSON.parse(process.argv[2]);
const said = [], opened = [], told = [];
let sockets = [], timers = [];
globalThis.setTimeout = (call, wait) => timers.push([call, wait]);
globalThis.clearTimeout = () => { timers = []; };
globalThis.location = { href: "https://site.test/page" };
globalThis.WebSocket = class {
  constructor(url) {
    opened.push([url.pathname, url.searchParams.getAll("since")]);
    sockets.push(this);
  }
  close() { this.closed = true; }
};
const client = resumable("/ws/", {
  since,
  onFrame: (frame) => {
    said.push(frame);
    if (frame.fails) throw new Error("a bug of the page");
  },
  onMissed: (group) => said.push("missed " + group),
  onResumed: (group) => told.push("resumed " + group),
  onLost: () => told.push("lost"),
});
for (const [what, frame, index] of steps) {
  const socket = sockets.at(index ?? -1);
  if (what === "frame") {
    try { socket.onmessage({ data: JSON.stringify(frame) }); } catch { said.push("error"); }
  } else if (what === "cut") socket.onclose();
  else if (what === "wait") for (const [call, wait] of timers.splice(0)) { if (wait > 15000) throw wait; call(); }
  else if (what === "close") client.close();
}
console.log(JSON.stringify({ said, opened, told, waiting: timers.length }));
"""


def at(number: int, digest: str = "aaaaaaaa", epoch: str = "11111111") -> str:
    return str(Position(number, 0, digest, epoch))


def frame(said: int, position: str | None, index: int | None = None) -> list[Any]:
    return ["frame", {"said": said, **({"position": position} if position else {})}, index]


def resumed(position: str) -> list[Any]:
    return ["frame", {"type": "resumed", "group": "room", "complete": True, "position": position}]


@pytest.fixture
def play(tmp_path: Path) -> Any:
    client = re.findall(r"^```js\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)[0]
    (tmp_path / "client.mjs").write_text(client)
    (tmp_path / "play.mjs").write_text(PLAY)

    def run(*steps: list[Any], since: tuple[str, ...] = ()) -> Any:
        command = ["node", "play.mjs", json.dumps([since, steps])]
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_it_comes_back_from_where_it_was(play: Any) -> None:
    """With the newest position of each group; a frame without one changes none."""
    other = at(5, "bbbbbbbb")
    found = play(
        *(resumed(at(1)), frame(1, at(2)), frame(2, None), resumed(other), ["cut"], ["wait"]),
        *(frame(3, at(3)), resumed(at(3)), ["cut"], ["wait"]),
    )
    assert found["opened"] == [["/ws/", []], ["/ws/", [at(2), other]], ["/ws/", [at(3), other]]]
    assert found["said"] == [{"said": 1}, {"said": 2}, {"said": 3}]


def test_it_ignores_what_it_has_seen(play: Any) -> None:
    """Several frames of one message are none of that, nor is one that was overtaken, nor one of another epoch."""
    promoted = at(4, epoch="22222222")
    found = play(
        *(frame(1, at(8)), frame(2, at(8)), frame(3, at(7)), ["cut"], ["wait"]),
        *(frame(3, at(8)), frame(4, at(9)), frame(5, promoted), ["cut"], ["wait"]),
    )
    assert [said["said"] for said in found["said"]] == [1, 2, 3, 4, 5]
    assert found["opened"] == [["/ws/", []], ["/ws/", [at(8)]], ["/ws/", [promoted]]]


def test_it_stores_a_position_after_the_frame(play: Any) -> None:
    found = play(frame(1, at(1)), ["frame", {"fails": 1, "position": at(2)}], ["cut"], ["wait"])
    assert found["opened"][1] == ["/ws/", [at(1)]]


def test_it_is_told_that_something_was_missed(play: Any) -> None:
    found = play(["frame", {"type": "missed", "group": "room"}], resumed(at(9)), ["cut"], ["wait"], since=(at(1),))
    assert found["said"] == ["missed room"]
    assert found["opened"] == [["/ws/", [at(1)]], ["/ws/", [at(9)]]]


def test_a_socket_that_was_given_up(play: Any) -> None:
    """Nothing of it counts any more; after `close` nothing is opened."""
    found = play(frame(1, at(1)), ["cut"], ["wait"], frame(2, at(2), 0), ["cut", None, 0], ["close"], ["cut"], ["wait"])
    assert found["said"] == [{"said": 1}]
    assert len(found["opened"]) == 2
    assert found["waiting"] == 0


def test_the_callbacks_of_a_connection(play: Any) -> None:
    """A page knows when it may send: once it was resumed, until the connection is lost."""
    found = play(frame(1, at(1)), resumed(at(1)), ["cut"], ["wait"], resumed(at(1)))
    assert found["said"] == [{"said": 1}]
    assert found["told"] == ["resumed room", "lost", "resumed room"]


def test_the_example_has_the_same_client() -> None:
    client = re.findall(r"^```js\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)[0]
    example = (ROOT / "examples" / "chat" / "static" / "chat.js").read_text(encoding="utf-8")
    assert example.endswith(client.replace("export function", "function"))
