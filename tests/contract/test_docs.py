"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?P<target>[^)\s#]*)(?:#(?P<heading>[^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page as their links write them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in lines}


def broken(page: Path) -> list[str]:
    found = []
    for link in LINK.finditer(page.read_text()):
        if re.match(r"[a-z]+:", link["target"]):
            continue
        target = page.parent / link["target"] if link["target"] else page
        if not target.exists() or (link["heading"] and link["heading"] not in anchors(target)):
            found.append(link[0])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One title\n[a](#one-title) [b](#another) [c](gone.md) [d](page.md) [e](https://example.org/)\n")
    assert broken(page) == ["](#another)", "](gone.md)"]


def test_every_page_is_reachable() -> None:
    """From the README or from docs/README.md, by links alone; a decision is found in its folder."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md", ROOT / "docs" / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (
            link["target"] for link in LINK.finditer(page.read_text()) if not re.match(r"[a-z]+:", link["target"])
        )
        waiting += [page.parent / target for target in targets if target]
    lost = {page for page in PAGES if page.resolve() not in seen and page.parent.name not in ("decisions", ROOT.name)}
    assert {str(page.relative_to(ROOT)) for page in lost} == set()


def test_every_field_of_the_resource_says_what_it_is() -> None:
    page = (ROOT / "docs/reference/zimageservice.md").read_text()
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []
    assert page.count("| `spec.") > 100
