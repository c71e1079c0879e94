"""Every code block of every page runs in a test, or says why not where readers see it."""

import re

import pytest
from blocks import MARK, ROOT, SHOWN, blocks_of, commands, pages
from fences import RUN

from unitgain.cli.commands import COMMANDS
from unitgain.cli.main import read

PAGES = [page for page in pages() if blocks_of(page)]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
RUN_BY_NAME = {
    page for path in TESTS for page in re.findall(r'run_page\(\s*"([^"]+)"', path.read_text(encoding="utf-8"))
}
FAMILIES = ("docs/concepts/",)
"""Folders whose pages are all run, by one parametrized test each."""
PLACEHOLDER = re.compile(r"^\.\.\.$|^\$")


@pytest.mark.parametrize("page", PAGES)
def test_each_block_runs_or_says_why_not(page):
    """Those of a page run all together, from its top to its end, so one test that names the page is enough."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks_of(page)), "a fence that is not understood"
    for block in blocks_of(page):
        where = f"{page}:{block.line}"
        assert block.language in RUN + SHOWN, f"{where}: say what language it is in"
        assert not block.more, f"{where}: nobody reads {block.more!r}"
        assert not block.title or block.reason or block.title.endswith(".py"), f"{where}: {block.title!r}"
        if block.title.startswith(MARK.strip()):
            assert len((block.reason or "").split()) >= 3, f"{where}: give the reason"
    if any(block.reason is None for block in blocks_of(page)):
        assert page in RUN_BY_NAME or page.startswith(FAMILIES), f"no test calls run_page({page!r}, ...)"


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language == "sh" for block in blocks_of(page))])
def test_commands_that_do_not_run_are_understood(page, monkeypatch):
    """Their options and values are those of the commands as they are now."""
    for block in blocks_of(page):
        if block.language == "sh" and block.reason is not None:
            for words in commands(block.code):
                if "unitgain" in words:
                    own = words[words.index("unitgain") + 1 :]
                    assert own[0] in {name.split()[0] for name in COMMANDS}, words
                    assert read(own) is not None, words


def test_the_reason_is_seen_on_the_site():
    """The site has what a fence calls its title above the block."""
    extensions = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("markdown_extensions:")[2]
    assert "pymdownx.superfences" in extensions and "pymdownx.highlight" in extensions
