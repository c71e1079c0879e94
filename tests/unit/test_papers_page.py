"""docs/papers.md: every figure, table, equation and algorithm has its row, and what the rows name is there."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from unitgain.arch.configs import edm2plus_configs
from unitgain.cli.commands import COMMANDS
from unitgain.presets import PRESETS
from unitgain.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "papers.md").read_text()
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


@pytest.mark.parametrize(("paper", "equations", "algorithms"), [("EDM2:", 153, 3), ("EDM2+:", 9, 0)])
def test_every_equation_and_algorithm_is_there(paper, equations, algorithms):
    part = PAGE.partition(f"## {paper}")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:Eq|Algorithm)[^|]*) \|[^|]*\|[^|]*\|[^|\n]* \|$", part, flags=re.MULTILINE)
    seen = {"Eq": [], "Algorithm": []}
    for cell in rows:
        kind = "Eq"
        for word, first, last in re.findall(r"(Algorithm)?\s?(\d+)(?:-(\d+))?", cell):
            kind = word or kind
            seen[kind] += range(int(first), int(last or first) + 1)
    assert sorted(seen["Eq"]) == [*range(1, equations + 1)]
    assert sorted(seen["Algorithm"]) == [*range(1, algorithms + 1)]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(unitgain\.[\w.]+)`", PAGE))))
def test_the_code_is_there(name):
    pkgutil.resolve_name(name)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE))))
def test_the_tests_are_there(name):
    path, _, function = name.partition("::")
    text = (ROOT / path).read_text()
    assert not function or re.search(rf"^def {function}\(", text, flags=re.MULTILINE)


def test_the_tokens_of_the_configs_are_those_of_their_equations():
    rows = re.findall(r"^\| Eq\. \d \| config (\w)(\\\*)?[^:|]*: `([^`]+)`", PAGE, flags=re.MULTILINE)
    configs = edm2plus_configs()
    assert len(rows) == 8
    for letter, star, tokens in rows:
        assert configs[letter.lower() + ("-bottleneck" if star else "")].branch == tokens
