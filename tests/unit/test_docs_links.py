"""Links between the pages lead somewhere, to the heading too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "keda/README.md"]


def headings(page: Path) -> set[str]:
    """As links name them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    for place, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        file = page.parent / place if place else page
        assert file.exists(), place
        assert not heading or heading in headings(file), (place, heading)


def test_the_readme_leads_to_each_page() -> None:
    """By one link, or by way of what it links to."""
    seen, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            todo += [(page.parent / place).resolve() for place in re.findall(r"\]\(([\w./-]+)", page.read_text())]
    # docs/decisions is linked as a folder.
    assert [page for page in PAGES if page not in seen and page.parent.name != "decisions"] == []
