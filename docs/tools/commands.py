"""The pages of the commands, from the parsers that read them."""

import argparse
import functools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tyro

from unitgain.cli.commands import COMMANDS, GROUPS
from unitgain.cli.main import read

AREAS = {
    "data": ("Data", ["data"]),
    "train": ("Training", ["train", "watch", "report", "compare", "recipes"]),
    "ema": ("Averages", ["ema"]),
    "sample": ("Drawing", ["sample", "explore"]),
    "metrics": ("Measuring and choosing", ["metrics", "sweep", "tune"]),
    "files": ("Networks and files", ["inspect", "magnitudes", "convert", "fetch", "push"]),
    "machine": ("Speed, the demo, completion", ["bench", "demo", "completion"]),
}
"""The pages: name, title, and first words of their commands."""
SHORTEST = 40  # characters; a longer metavar, a list of names, stands in the text


class _Parser(Exception):
    """Carries the parser that a command was about to read with."""


@functools.cache
def parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command, with the defaults that it has when only its help is asked for."""

    def instead(of: Any, *, prog: str, args: Any, config: Any, **more: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            raise _Parser(tyro.extras.get_parser(of, prog=prog, config=config, **more))

    with mock.patch.object(tyro, "cli", instead):
        try:
            read([*name.split(), "--help"])
        except _Parser as caught:
            return caught.args[0]
    raise AssertionError(f"unitgain {name} reads no arguments")


def options(name: str) -> dict[str, argparse.Action]:
    """What a command takes, by its longest option, or by its name where it is an argument."""
    return {_longest(action): action for action in parser(name)._actions if action.dest != "help"}


def write(out: Path) -> None:
    """Write the pages, and the one that leads to them, into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    lines = ["# Commands", "", "`unitgain COMMAND --help` says the same, for the version that is installed.", ""]
    for file, (title, words) in AREAS.items():
        names = [name for word in words for name in COMMANDS if name.split()[0] == word]
        lines += [f"## {title}", ""]
        lines += [f"- [`unitgain {name}`]({file}.md#{anchor(name)}): {COMMANDS[name].summary}" for name in names] + [""]
        head = [_escaped(GROUPS[word]) for word in words if word in GROUPS]
        text = "\n".join([f"# {title}: commands", "", *head, "", *(line for name in names for line in section(name))])
        (out / f"{file}.md").write_text(text, encoding="utf-8")
    (out / "index.md").write_text("\n".join(lines), encoding="utf-8")


def section(name: str) -> Iterator[str]:
    """The section of a command, line by line."""
    own = parser(name)
    yield f"## unitgain {name} {{ #{anchor(name)} }}"
    yield ""
    yield _escaped(own.description or "")
    yield ""
    yield from _groups(name, own)


def _groups(name: str, own: argparse.ArgumentParser) -> Iterator[str]:
    for group in own._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            title = "arguments" if "positional" in (group.title or "") else _group(group.title or "")
            yield f"### {title.capitalize()} {{ #{anchor(name)}-{re.sub('[^a-z]+', '-', title.lower())} }}"
            yield ""
        for action in actions:
            yield from _entry(name, action)


def _group(title: str) -> str:
    """`settings.recipe.network options` is said as `network options`."""
    return title.rpartition(" options")[0].rpartition(".")[2].replace("_", " ") + " options" if " " in title else title


def _entry(name: str, action: argparse.Action) -> Iterator[str]:
    text, metavar = (
        " ".join((action.help or "").split()),
        str(action.metavar or "").replace("{None}|", "").replace("{None,", "{").strip("[]"),
    )
    if len(metavar) > SHORTEST or not action.option_strings:
        choices = metavar.strip("{}").split(",")
        text = f"{text} One of {', '.join(choices)}." if len(choices) > 1 else text
        metavar = "NAME" if action.option_strings else _longest(action)
    shown = " ".join([", ".join(action.option_strings), metavar]).strip()
    yield f"`{shown}`{{ #{anchor(name, _longest(action))} }}"
    yield f":   {_escaped(_sentence(text)) or 'No more is said of it.'}"
    yield ""


def _longest(action: argparse.Action) -> str:
    return max(action.option_strings, key=len, default=action.dest.rpartition(".")[2].upper())


def _sentence(text: str) -> str:
    """The help of an option as sentences: it begins with a capital, and `(default: 3)` is one of its own."""
    text = re.sub(r"\.?\s*\(default: (.*)\)$", r". Default: `\1`.", text.strip()).replace("(required)", "").strip()
    return text[:1].upper() + text[1:]


def anchor(name: str, option: str = "") -> str:
    """Where on its page a command is, or one of its options."""
    return name.replace(" ", "-") + (f".{option.strip('-').lower()}" if option else "")


def _escaped(text: str) -> str:
    """Text of a help as Markdown: no emphasis, no markup, options and names as code."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = (
        re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"`\1`", re.sub(r"([\\*_<>\[\]])", r"\\\1", part)) for part in parts[::2]
    )
    code = [*parts[1::2], ""]
    return "".join(words for pair in zip(plain, code, strict=True) for words in pair)
