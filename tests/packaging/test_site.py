"""The checks of the built site, on pages that are made up. `make docs` runs them on those that it has built."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.site import Page, main, problems

NAVIGATION = '<nav><a href="./">A</a><a href="b.html">B</a></nav>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text(f'<html>{NAVIGATION}<h1 id="a">A</h1></html>')
    (tmp_path / "b.html").write_text(f'<html>{NAVIGATION}<h1 id="b">B</h1><a href="#b">B</a></html>')
    (tmp_path / "404.html").write_text('<html><a href="/elsewhere.html">C</a></html>')
    return tmp_path


def add(site: Path, html: str) -> list[str]:
    page = site / "b.html"
    page.write_text(page.read_text() + html)
    return problems(site)


def test_a_site_without_problems(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(site) == []
    assert main(str(site)) == 0
    assert capsys.readouterr().out == "3 pages, no problems found\n"


def test_what_is_no_site(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"{tmp_path}: no index.html: not a built site"]
    assert main(str(tmp_path)) == 1


@pytest.mark.parametrize("link", ["c.html", "#c", "index.html#c", "./#c", "images/c.svg"])
def test_a_link_to_nowhere(site: Path, link: str) -> None:
    assert add(site, f'<p><a href="{link}">C</a></p>') == [f"b.html: a link to nowhere: {link}"]


@pytest.mark.parametrize("link", ["index.html#a", "./#a", "#b", "https://example.com/c.html#c", "mailto:a@b.c"])
def test_links_that_lead_somewhere(site: Path, link: str) -> None:
    assert add(site, f'<p><a href="{link}">C</a></p>') == []


def test_an_image_that_is_missing(site: Path) -> None:
    images = '<picture><source srcset="images/dark.png 2x"><img src="images/light.png"></picture>'
    assert add(site, images) == ["b.html: no image images/dark.png", "b.html: no image images/light.png"]
    (site / "images").mkdir()
    (site / "images" / "light.png").touch()
    assert problems(site) == ["b.html: no image images/dark.png"]


def test_what_a_page_loads(site: Path) -> None:
    parts = '<script src="a.js"></script><link rel="stylesheet" href="./a.css"><link rel="next" href="https://b.c/">'
    assert add(site, parts) == ["b.html: no file a.js", "b.html: no file ./a.css"]
    (site / "a.js").touch()
    (site / "a.css").touch()
    assert problems(site) == []
    assert add(site, '<script src="https://b.c/a.js">') == ["b.html: loaded from elsewhere: https://b.c/a.js"]


def test_a_page_that_nothing_leads_to(site: Path) -> None:
    (site / "c.html").write_text("<html></html>")
    assert problems(site) == ["c.html: not in the navigation"]


RESTARTS = "<ol><li>One</li></ol><table><tr><td>T</td></tr></table><ol><li>Two, as <code>x</code> says</li></ol>"


@pytest.mark.parametrize(
    ("html", "restarts"),
    [
        (RESTARTS, ["Two, as x says"]),
        (f"<div>{RESTARTS}</div>", ["Two, as x says"]),
        ("<ol><li>One</li></ol><p>So far.</p><ol start=2><li>Two</li></ol>", []),
        ("<ol><li>One</li></ol><h3>Then</h3><ol><li>One</li></ol>", []),
        ("<ol><li>One<ol><li>Below</li></ol></li><li>Two<ol><li>Below</li></ol></li></ol>", []),
        ("<nav><ol><li>One</li></ol><ol><li>One</li></ol></nav>", []),
        ("<div><ol><li>One</li></ol></div><br><div><ol><li>One</li></ol></div>", []),
    ],
)
def test_a_numbered_list_that_restarts(html: str, restarts: list[str]) -> None:
    assert Page(html).restarts == restarts
