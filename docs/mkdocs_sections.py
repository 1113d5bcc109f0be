"""A hook of MkDocs: a paragraph that is only a link out of docs/ becomes, on the site, what it links to.

`[Options](../README.md#options)` stands for that section of the README, `[Changelog](../CHANGELOG.md)` for the file. So
a text is in one place, and whoever reads these pages in the repository follows a link. Knows Markdown headings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_STANDS_FOR = re.compile(r"^\[[^\]]+\]\(\.\./(?P<path>[\w.-]+\.md)(#(?P<anchor>[\w-]+))?\)$", re.MULTILINE)
_HEADING = re.compile(r"^(?P<marks>#+) (?P<title>.+)$")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put sections in place of the links to them. Raises ``ValueError`` for one that is not there."""
    return _STANDS_FOR.sub(lambda link: section(link["path"], link["anchor"]), markdown)


def section(path: str, anchor: str | None) -> str:
    """
    The text below a heading, up to the next one that is not below it; of a whole file without an anchor.

    The headings in it are raised so that the highest is of the second level, and links are those of a page of docs/.
    """
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    found: list[str] = []
    level = 0
    in_code = False
    for line in lines:
        in_code ^= line.startswith("```")
        heading = None if in_code else _HEADING.match(line)
        if heading and level and len(heading["marks"]) <= level:
            break
        if heading and not level and anchor in (None, slug(heading["title"])):
            level = len(heading["marks"])
        elif level:
            found.append(line[level - 1 :] if heading else line)
    if not level:
        raise ValueError(f"{path} has no heading for #{anchor}")
    return re.sub(r"\]\(docs/", "](", "\n".join(found).strip())


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
