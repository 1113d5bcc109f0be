"""That the documentation can be put together: what `make docs` would find, without building the site."""

from __future__ import annotations

import inspect
import pydoc
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
IDS = [page.name for page in PAGES]
#: Where the README, which is also the project's page on PyPI, finds the pages.
SITE = "https://channels-redis-fast.readthedocs.io/en/latest/"
#: Read by the site as a page of docs/ is, and on GitHub and PyPI too.
AT_THE_ROOT = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

in_the_tree = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="outside the source tree")


def prose(path: Path) -> str:
    """The text of a page without its blocks of code. What stands for a file of the root is replaced by that."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'^--8<-- "([\w.]+)"$', lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), text, flags=re.M)
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.M)


def anchors(text: str) -> set[str]:
    """Those of headings, as the site and GitHub make them, and those that are written out."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    made = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


@in_the_tree
def test_every_page_has_its_place() -> None:
    """In the navigation, each once, and nothing there that is not."""
    named = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(named) == IDS


@in_the_tree
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_has_a_title_and_links_that_lead_somewhere(page: Path) -> None:
    text = prose(page)
    assert len(re.findall(r"^# ", text, re.M)) == 1
    for link in links(text):
        here = link.removeprefix(SITE).replace(".html", ".md") if link.startswith(SITE) else link
        if re.match(r"\w+:", here):
            continue
        name, _, anchor = here.partition("#")
        # A page of the site cannot link to what is outside of docs/.
        assert ".." not in name, link
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(prose(target)), link


@in_the_tree
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_page_is_only_a_link(page: Path) -> None:
    """What a reader looks for is on the page, and not behind one more click."""
    assert len(re.sub(r"^#.*$|\[[^\]]*\]\([^)]*\)", "", prose(page), flags=re.M).split()) > 30


@in_the_tree
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_numbered_lists_go_on(page: Path) -> None:
    """Markdown takes what belongs to an item for its own only if it is indented by four spaces: GitHub by three."""
    number, before = 0, ""
    for line in prose(page).splitlines():
        if found := re.match(r"(\d+)\. ", line):
            number = int(found[1])
        elif line and not line.startswith(" "):
            number = 0
        elif number:
            # Lines of the same paragraph may be indented as they like.
            block = re.match(r" *([-*|]|\d+\.)", line) or not before
            assert not (block and re.match(r" {1,3}\S", line)), f"this does not belong to item {number}: {line}"
        before = line


@in_the_tree
@pytest.mark.parametrize("name", AT_THE_ROOT)
def test_links_work_wherever_a_file_of_the_root_is_read(name: str) -> None:
    """Relative ones lead nowhere on PyPI, and elsewhere than on GitHub on the site."""
    found = links(prose(ROOT / name))
    assert found
    assert [link for link in found if not link.startswith("https://")] == []


@in_the_tree
def test_the_site_is_where_the_links_lead() -> None:
    assert f'"{SITE}"' in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@in_the_tree
def test_the_readme_links_to_pages_and_images_that_are_there() -> None:
    text = prose(ROOT / "README.md")
    found = [link.removeprefix(SITE) for link in links(text) if link.startswith(SITE)]
    assert len(found) > 10
    for link in found:
        name, _, anchor = link.partition("#")
        target = ROOT / "docs" / name.replace(".html", ".md")
        assert target.is_file(), link
        assert not anchor or anchor in anchors(prose(target)), link
    # PyPI removes what it does not know, <picture> too.
    assert re.findall(r"<\w+", text) == []


@in_the_tree
def test_each_reference_of_the_readme_is_used_and_defined() -> None:
    text = prose(ROOT / "README.md")
    defined = re.findall(r"^\[([^\]]+)\]: ", text, re.M)
    used = re.findall(r"\]\[([^\]]+)\]", text) + re.findall(r"(?<!\])\[([^\]]+)\](?![\[(:])", text)
    assert sorted(defined) == sorted({" ".join(name.lower().split()) for name in used})


@in_the_tree
def test_what_the_page_of_the_api_shows_is_explained() -> None:
    """A class, function or method of ours without a docstring would be a bare signature there."""
    pytest.importorskip("channels_redis_fast.core", reason="needs the package")
    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.M)
    assert len(named) > 5
    assert [name for found in map(pydoc.locate, named) for name in unexplained(found)] == []


def unexplained(found: object) -> list[str]:
    """The names without a docstring of their own or an inherited one, of a module, a class or a function of ours."""
    bare = [] if inspect.getdoc(found) else [getattr(found, "__qualname__", repr(found))]
    if inspect.ismodule(found) or inspect.isclass(found):
        for name, member in inspect.getmembers(found):
            ours = (getattr(member, "__module__", None) or "").startswith("channels_redis_fast")
            if ours and not name.startswith("_") and (inspect.isclass(member) or inspect.isroutine(member)):
                bare += unexplained(member)
    return bare
