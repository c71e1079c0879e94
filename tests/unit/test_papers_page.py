"""docs/papers.md: every figure and table has its row, and every command there is one, with the options it is given."""

import re
import shlex
from pathlib import Path

import pytest

from unitgain.cli.commands import COMMANDS
from unitgain.presets import PRESETS
from unitgain.recipes import RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "papers.md").read_text()
SPANS = [shlex.split(text) for text in re.findall(r"`unitgain ([^`]+)`", PAGE.replace("\n", " "))]


def command_of(words):
    return next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)


@pytest.mark.parametrize("command", sorted({command_of(words) for words in SPANS}))
def test_commands_have_the_options(call, command):
    text = call(*command.split(), "--help").out
    own = [words for words in SPANS if command_of(words) == command]
    for option in {word for words in own for word in words if word.startswith("--")}:
        assert re.search(rf"{option}\b", text), option


def test_recipes_and_presets_are_there():
    named = {word.partition(":")[0] for words in SPANS for word in words if re.match(r"edm2(plus)?-", word)}
    assert named
    assert named <= {*RECIPES, *PRESETS}


@pytest.mark.parametrize(("paper", "figures", "tables"), [("EDM2:", 27, 6), ("EDM2+:", 3, 4)])
def test_none_is_missing(paper, figures, tables):
    part = PAGE.partition(f"## {paper}")[2].partition("\n## ")[0]
    seen = {"Fig": set(), "Table": set()}
    for cell in re.findall(r"^\| ((?:Fig|Table)[^|]*) \|", part, flags=re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", cell):
            seen[cell.partition(" ")[0].rstrip("s.")] |= set(range(int(first), int(last or first) + 1))
    assert seen == {"Fig": set(range(1, figures + 1)), "Table": set(range(1, tables + 1))}
