"""Links lead somewhere, every page can be reached from the README, and the files that are named are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("docs", "deploy", "helm", "changelog.d", "services/trellis/base_models")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))),
]
WHERE_CODE_LIES = ("", "services", "services/trellis", "services/trellis/server", "ray_jobs", "ray_jobs/trellis_jobs")
OF_OTHERS = re.compile(r"serve/|rayproject/|nvidia\.com/")
MADE = "deploy/secrets"
"""By deploy/make-secrets."""
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    said = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in said}


def links(page: Path) -> list[tuple[Path, str]]:
    """Those within the repository: the file, and the heading in it. What is in changelog.d is read in CHANGELOG.md."""
    folder = ROOT if page.parent.name == "changelog.d" else page.parent
    found = re.findall(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]*))?\)", prose(page))
    return [((folder / path).resolve() if path else page, anchor) for path, anchor in found]


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target} has no heading {anchor}"


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_files_that_are_named_are_there(page: Path) -> None:
    if page.is_relative_to(ROOT / "changelog.d"):
        return  # what was true then
    for name in re.findall(r"`([a-z_.]+/[a-zA-Z0-9_./-]+)`", page.read_text(encoding="utf-8")):
        if not OF_OTHERS.match(name) and not name.startswith(MADE) and name != "tenants/-":
            places = [page.parent / name, *(ROOT / folder / name for folder in WHERE_CODE_LIES)]
            assert any(place.exists() or place.with_suffix(".py").exists() for place in places), name


def test_every_page_can_be_reached_from_the_readme() -> None:
    """But for the pages of docs/adr, whose folder is their list."""
    seen, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        ahead += [target for target, _ in links(page)]
    assert ROOT / "docs/adr/README.md" in seen
    assert {page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "adr"} <= seen


def test_the_architecture_names_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^services/trellis/\n((?:  .+\n)+)", page, re.MULTILINE)
    named = {name for line in block.splitlines() for name in re.split(r"  +", line.strip())[0].split()}
    folder = ROOT / "services" / "trellis"
    code = {path.stem for path in folder.iterdir() if path.suffix == ".py" or any(path.glob("[!_]*"))}
    code |= {init.parent.name for init in folder.glob("*/__init__.py")}
    assert {name.removesuffix("/") for name in named} == code - {"__init__", "__pycache__"}
