"""Words of a command line, for what has to be known before tyro reads them: options by name, split as it does."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import tyro


def options(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What follows each option, by its name without `--`; of one that is given twice what comes last, which holds.

    `--label-dim=3`, `--label-dim 3` and `--label_dim 3` are the same.
    """
    return dict(_split(words))


def recipe_name(
    words: Sequence[str], known: Collection[str], switches: Collection[str]
) -> tuple[str | None, list[str]]:
    """The name of the recipe, which comes first, or last where it cannot be the value of an option; and the rest.

    Args:
        words: of a command.
        known: names of recipes.
        switches: options that take no value.
    """
    if words and not words[0].startswith("-"):
        return words[0], list(words[1:])
    option, values = next(reversed(_split(words)), ("", ()))
    if values and words[-1] in known and (len(values) > 1 or option in switches):
        return words[-1], list(words[:-1])
    return None, list(words)


def refuse_repeated(words: Sequence[str], command: type[Any]) -> None:
    """Refuse an option that is given twice, of which the first would be dropped without a word.

    Args:
        words: of a command.
        command: the dataclass of its options; those of `tyro.conf.UseAppendAction` may be given again.

    Raises:
        ValueError: if one that is not a mere switch comes twice.
    """
    known = list(_fields(command))
    adding = {name for name, about in known if tyro.conf.UseAppendAction in about}
    named = {alias.strip("-"): name for name, about in known for alias in _arg(about, "aliases") or ()}
    seen: dict[str, list[str]] = {}
    for name, values in _split(words):
        option, now = named.get(name, name), [f"--{name}", *values]
        if option in seen and option not in adding and len(seen[option]) + len(now) > 2:
            raise ValueError(f"--{name} is given twice, {' '.join(seen[option])} and {' '.join(now)}: leave one out")
        seen[option] = now


def _split(words: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            found.append((name.replace("_", "-"), [value] if sign else []))
        elif found:
            found[-1][1].append(word)
    return [(name, tuple(values)) for name, values in found]


def _fields(command: type[Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Options of a command by name, and what is annotated of each for tyro."""
    for field in dataclasses.fields(command):
        about = getattr(field.type, "__metadata__", ())
        inner = getattr(field.type, "__origin__", field.type)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from _fields(inner)
        yield (_arg(about, "name") or field.name).replace("_", "-"), about


def _arg(about: tuple[Any, ...], what: str) -> Any:
    """What `tyro.conf.arg` says in one of its fields; None where it says nothing."""
    return next(filter(None, (getattr(one, what, None) for one in about)), None)
