"""The pages of the commands, from the help that they print: of all that tyro says of options, that is what it keeps."""

import contextlib
import functools
import io
import os
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
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


WIDTH = 129  # characters; the most in which a help of any length has one column


@dataclass
class Entry:
    """An option or an argument in a help.

    Args:
        names: of an option, the first as it is called; none for an argument.
        metavar: what its value is.
        text: what is said of it.
    """

    names: tuple[str, ...]
    metavar: str
    text: str = ""


@dataclass
class Help:
    """A help, taken apart: what it says of the command, and entries by group."""

    description: str
    groups: dict[str, list[Entry]] = field(default_factory=dict)


@functools.cache
def help_of(name: str) -> Help:
    """The help of a command."""
    text = io.StringIO()  # of no encoding, so that boxes are drawn in ASCII
    width = mock.patch.dict(os.environ, COLUMNS=str(WIDTH))
    with width, contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        read([*name.split(), "--help"])
    found = parse_help(text.getvalue())
    for entry, argument in zip(found.groups.get("positional arguments", ()), _arguments(name), strict=True):
        entry.names = (argument.upper().replace("_", "-"),)
    return found


def parse_help(text: str) -> Help:
    """Take a help apart. A title begins after one space, an entry after two, and what is said of it further in."""
    found, group = Help(re.split(r"^ \S", text.partition("\n\n")[2], maxsplit=1, flags=re.MULTILINE)[0].strip()), None
    for line in map(str.rstrip, text.splitlines()):
        if re.match(r" [^ -]", line):
            group = found.groups.setdefault(line.strip(), [])
        elif re.fullmatch(r"  -+", line) and group is not None:  # what stands above is said of the group
            group.clear()
        elif re.match(r"   ", line) and group:
            group[-1].text = f"{group[-1].text} {line.strip()}".strip()
        elif re.match(r"  \S", line) and group is not None:
            head, _, said = line.strip().partition("  ")
            names = tuple(re.findall(r"(?:^|, )(--?[A-Za-z][\w-]*)", head))
            metavar = re.sub(r"(?:^|, )--?[A-Za-z][\w-]*", "\0", head).strip("\0 ").split("\0")[0].strip()
            group.append(Entry(names, metavar, said.strip()))
    for entries in found.groups.values():
        entries[:] = [entry for entry in entries if "--help" not in entry.names]
    return found


def _arguments(name: str) -> list[str]:
    """The fields of a command that are arguments, in order."""
    hints = typing.get_type_hints(COMMANDS[name].load(), include_extras=True)
    return [one for one, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())]


def options(name: str) -> dict[str, Entry]:
    """What a command takes, by its longest option, or by its name where it is an argument."""
    return {_longest(entry): entry for entries in help_of(name).groups.values() for entry in entries}


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
    own = help_of(name)
    yield f"## unitgain {name} {{ #{anchor(name)} }}"
    yield ""
    yield _escaped(own.description)
    yield ""
    for title, entries in own.groups.items():
        if entries:
            shown = _group(title.replace("positional ", ""))
            yield f"### {shown.capitalize()} {{ #{anchor(name)}-{re.sub('[^a-z]+', '-', shown.lower())} }}"
            yield ""
        for entry in entries:
            yield from _entry(name, entry)


def _group(title: str) -> str:
    """`settings.recipe.network options` is said as `network options`."""
    return title.rpartition(" options")[0].rpartition(".")[2].replace("_", " ") + " options" if " " in title else title


def _entry(name: str, entry: Entry) -> Iterator[str]:
    text, metavar = entry.text, entry.metavar.replace("{None}|", "").replace("{None,", "{")
    metavar = metavar[1:-1] if metavar.startswith("[") else metavar
    argument = not entry.names[0].startswith("-")
    if len(metavar) > SHORTEST or argument:
        choices = metavar.strip("{}").split(",")
        text = f"{text} One of {', '.join(choices)}." if len(choices) > 1 else text
        metavar = "" if argument else "NAME"
    shown = " ".join([", ".join(entry.names), metavar]).strip()
    yield f"`{shown}`{{ #{anchor(name, _longest(entry))} }}"
    yield f":   {_escaped(_sentence(text)) or 'No more is said of it.'}"
    yield ""


def _longest(entry: Entry) -> str:
    return max(entry.names, key=len)


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
