"""Documents that hold together: every link leads somewhere, every command and flag in them exists."""

import re
import shlex
from pathlib import Path

import pytest

from sft.config.layers import load_settings
from tests.commands import ROOT, SCRIPTS, settings_class_of
from tests.readme import read_commands, script_calls

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CHINESE = (
    "own-data",
    "gpu",
    "choosing",
    "evaluation",
)  # pages in both languages; errors.md is troubleshooting.md in short
name_of = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings as GitHub makes them: "## In CI: --fail_if" -> "in-ci---fail_if"."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def find_broken_links(page: Path) -> list[str]:
    """Links of a page that lead nowhere; addresses of the web are left alone."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+://|mailto:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@name_of
def test_every_link_of_a_page_leads_somewhere(page):
    assert find_broken_links(page) == []


def test_a_link_to_a_missing_page_or_heading_is_found(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("# One two\n[x](a.md#one-two) [y](b.md) [z](#three) [w](https://example.org)\n", encoding="utf-8")
    assert find_broken_links(page) == ["b.md", "#three"]


@name_of
def test_every_command_of_a_page_is_accepted_by_its_script(page, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for command in read_commands(page.read_text(encoding="utf-8")):
        for script, *arguments in script_calls(command):
            if script not in SCRIPTS or {"--help", "..."} & set(arguments) or "<" in command or "…" in command:
                continue
            try:
                load_settings(settings_class_of(script), arguments)
            except Exception as error:
                if "no such file" not in str(error):  # a recipe or task file that is the reader's own
                    pytest.fail(f"{shlex.join([script, *arguments])}: {error}")


def test_every_page_is_in_the_index_and_chinese_pages_show_commands_of_english_ones():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if "docs" in page.parts]
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []
    english = {command for page in PAGES if "zh" not in str(page) for command in read_commands(page.read_text("utf-8"))}
    chinese = {command for page in PAGES if "zh" in str(page) for command in read_commands(page.read_text("utf-8"))}
    assert chinese - english == set()


def test_the_readmes_are_short_and_their_pictures_small():
    for name in ("README.md", "README_zh.md"):
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 200
    assert [path.name for path in (ROOT / "docs/pictures").iterdir() if path.stat().st_size > 250_000] == []
