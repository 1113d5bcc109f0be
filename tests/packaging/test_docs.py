"""That the documentation can be put together: what `make docs` would find, without building the site."""

from __future__ import annotations

import importlib.util
import inspect
import pydoc
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))

in_the_tree = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="outside the source tree")


@pytest.fixture(scope="module")
def sections() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mkdocs_sections", ROOT / "docs" / "mkdocs_sections.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@in_the_tree
def test_every_page_has_its_place() -> None:
    """In the navigation, each once, and nothing there that is not."""
    named = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(named) == [page.name for page in PAGES]


@in_the_tree
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_what_a_page_takes_from_elsewhere_is_there(sections: ModuleType, page: Path) -> None:
    """A section of the README that was renamed is missed here."""
    text = sections.on_page_markdown(page.read_text(encoding="utf-8"))
    assert re.findall(r"\]\(\.\./[^)]*\)", text) == []
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    # What comes from elsewhere has no heading of the page's own level.
    assert len(re.findall(r"^# ", prose, re.M)) == 1
    # A link within the README may lead to where another page is.
    anchors = {sections.slug(title) for title in re.findall(r"^#+ (.+)$", prose, re.M)}
    assert set(re.findall(r"\]\(#([^)]*)\)", prose)) - anchors == set()


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


def test_a_section_ends_where_the_next_begins(
    sections: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text(
        "# T\n\nNo.\n\n## It's *here*, yes\n\nA [page](docs/p.md).\n\n```\n# no heading\n```\n\n### Below\n\nB.\n"
        "\n## N\n\nNo.\n"
    )
    monkeypatch.setattr(sections, "ROOT", tmp_path)
    meant = "A [page](p.md).\n\n```\n# no heading\n```\n\n## Below\n\nB."
    assert sections.section("README.md", "its-here-yes") == meant
    assert sections.on_page_markdown("# O\n\n[O](../README.md#its-here-yes)\n") == f"# O\n\n{meant}\n"
    with pytest.raises(ValueError, match=r"README\.md has no heading for #nowhere"):
        sections.section("README.md", "nowhere")
