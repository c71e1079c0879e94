"""Every code block of every page runs in a test, or says why not where readers see it."""

import re

import pytest
from blocks import ROOT, SHOWN, blocks_of, commands, pages

from fences import MARK, RUN
from unitgain.cli.commands import COMMANDS
from unitgain.cli.main import read

PAGES = [page for page in pages() if blocks_of(page)]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
RUN_BY_NAME = {
    page for path in TESTS for page in re.findall(r'run_page\(\s*"([^"]+)"', path.read_text(encoding="utf-8"))
}
FAMILIES = ("docs/concepts/",)
"""Folders whose pages are all run, by one parametrized test each."""
OWN = {"docs/contributing/extending.md": 4}
"""Pages whose tests need more than a run from top to bottom, and how many blocks run there."""


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
            assert len((block.reason or "").split()) >= 2, f"{where}: give the reason"
    running = [block for block in blocks_of(page) if block.reason is None]
    if page in OWN:
        assert len(running) == OWN[page], "a test has to run the new one: see where the others are run"
    elif running:
        assert page in RUN_BY_NAME or page.startswith(FAMILIES), f"no test calls run_page({page!r}, ...)"


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language == "sh" for block in blocks_of(page))])
def test_commands_that_do_not_run_are_understood(page):
    """Their options and values are those of the commands as they are now."""
    for block in blocks_of(page):
        if block.language == "sh" and block.reason is not None:
            for words in commands(block.code):
                if "unitgain" in words and not {"...", "$D"} & set(words):
                    own = ["digits" if word == "NAME" else word for word in words[words.index("unitgain") + 1 :]]
                    assert own[0] in {name.split()[0] for name in COMMANDS}, words
                    try:
                        assert read(own) is not None, words
                    except FileNotFoundError:
                        pass  # the options are understood, and the files are the reader's
                    except ValueError as error:
                        assert "unknown data set" in str(error), words


def test_the_reason_is_seen_on_the_site():
    """The site has what a fence calls its title above the block."""
    extensions = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("markdown_extensions:")[2]
    assert "pymdownx.superfences" in extensions and "pymdownx.highlight" in extensions
