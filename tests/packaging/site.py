"""What is wrong with the pages of the built site: `python -m tests.packaging.site build/site`.

Zensical finds links to pages and headings that do not exist. This finds what becomes of Markdown: images that are
missing, numbered lists that restart in the middle, pages that the navigation does not reach; and whether something is
loaded from elsewhere. Knows HTML and nothing of the package, so that it runs beside the site's tools alone.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Elements that have no end tag.
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
#: After one of these a numbered list may begin anew.
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
#: The page that the server shows in place of one that is missing; nothing links to it.
NOT_FOUND = "404.html"


class Page(HTMLParser):
    """The identifiers, links, images and numbered lists of one page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.navigation: list[str] = []
        self.images: list[str] = []
        #: Scripts, style sheets and icons.
        self.parts: list[str] = []
        #: Numbered lists that begin with 1 behind another one, with only text or code between them: their beginnings.
        self.restarts: list[str] = []
        self._open: list[str] = []
        # Of each open element: whether one of its children was a numbered list, with no heading behind it.
        self._counted = [False]
        self._restarted: int | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if "id" in attributes:
            self.ids.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
            if "nav" in self._open:
                self.navigation.append(attributes["href"])
        if tag in ("img", "source"):
            srcset = attributes.get("srcset", "").split()
            self.images += [image for image in (attributes.get("src"), *srcset[:1]) if image]
        if tag == "script" and attributes.get("src"):
            self.parts.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.parts.append(attributes.get("href", ""))
        if tag in HEADINGS:
            self._counted[-1] = False
        if tag == "ol" and "nav" not in self._open:
            if self._counted[-1] and attributes.get("start", "1") == "1":
                self.restarts.append("")
                self._restarted = len(self._open)
            self._counted[-1] = True
        if tag not in VOID:
            self._open.append(tag)
            self._counted.append(False)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open and self._open.pop() != tag:
                self._counted.pop()
            self._counted.pop()
            if self._restarted is not None and len(self._open) <= self._restarted:
                self._restarted = None

    def handle_data(self, data: str) -> None:
        if self._restarted is not None and len(self.restarts[-1]) < 50:
            self.restarts[-1] = " ".join(f"{self.restarts[-1]} {data}".split())[:50]


def problems(site: Path) -> list[str]:
    """One line for each, with its page; empty when there are none."""
    pages = {path.name: Page(path.read_text(encoding="utf-8")) for path in sorted(site.glob("*.html"))}
    if "index.html" not in pages:
        return [f"{site}: no index.html: not a built site"]
    found = []
    for name, page in pages.items():
        if name == NOT_FOUND:
            continue
        found += [f"{name}: a numbered list restarts: {text!r}" for text in page.restarts]
        found += [f"{name}: no image {image}" for image in page.images if _local(image) and not _exists(site, image)]
        loaded = [*page.images, *page.parts]
        found += [f"{name}: loaded from elsewhere: {part}" for part in loaded if not _local(part)]
        found += [f"{name}: no file {part}" for part in page.parts if _local(part) and not _exists(site, part)]
        found += [f"{name}: a link to nowhere: {link}" for link in page.links if not _leads(site, pages, name, link)]
    reached = {urlsplit(link).path.removeprefix("./") or "index.html" for link in pages["index.html"].navigation}
    found += [f"{name}: not in the navigation" for name in pages if name != NOT_FOUND and name not in reached]
    return found


def _local(link: str) -> bool:
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc


def _exists(site: Path, link: str) -> bool:
    return (site / unquote(urlsplit(link).path)).is_file()


def _leads(site: Path, pages: dict[str, Page], page: str, link: str) -> bool:
    """Whether a link leads to a file of the site and, in a page, to an element of it. Those to elsewhere do."""
    parts = urlsplit(link)
    if not _local(link):
        return True
    target = re.sub(r"^(\./)*$", "index.html", unquote(parts.path)).removeprefix("./") if parts.path else page
    if target not in pages:
        return (site / target).is_file()
    return not parts.fragment or unquote(parts.fragment) in pages[target].ids


def main(directory: str) -> int:
    site = Path(directory)
    found = problems(site)
    print(*(found or [f"{len(list(site.glob('*.html')))} pages, no problems found"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
