"""Labels of pictures as numbers of classes, as they go through here from every source."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unitgain.classes import check_names
from unitgain.text import brief

Label = int | str | None
Value = TypeVar("Value")
FAR_APART = 100_000  # a number of classes that nobody has by tenths
GIVEN = "the classes that were given"  # by the user
LONGEST_LABEL = 4096  # characters of a label


@dataclass(frozen=True)
class Told:
    """What a file says of the classes of pictures.

    Attributes:
        where: it is, for messages.
        labels: one per picture; None where it says nothing.
        names: of the classes that its numbers stand for, if it has some.
    """

    where: str
    labels: Sequence[Label]
    names: tuple[str, ...] | None = None


def check_label(label: object, where: str) -> None:
    """Raise `ValueError` if a label is none."""
    if isinstance(label, bytes):
        raise ValueError(f"{where} label {brief(label)}, which is no text in UTF-8")
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise ValueError(f"{where} label {brief(label)}; one class per picture, as a number or a name")


def is_number(label: Label) -> bool:
    """Whether a label is a whole number, perhaps as text."""
    if isinstance(label, str):
        return re.fullmatch(rf"-?[0-9]{{1,{LONGEST_LABEL}}}", label) is not None
    return isinstance(label, int)


def class_names(names: object, where: str) -> tuple[str, ...] | None:
    """Names of classes, as a file has them in order; None if there are none.

    Raises:
        ValueError: if these are no list of different names.
    """
    if names is None or names == []:
        return None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: classes {brief(names)}; a list of their names is expected, in order")
    found = tuple(unicodedata.normalize("NFC", name) for name in names)
    try:
        check_names(found)
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: classes {brief(names)} have a name that is no text in Unicode") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    places: dict[str, int] = {}
    for number, name in enumerate(found):
        if places.setdefault(name, number) != number:
            raise ValueError(f"{where}: classes {places[name]} and {number} are both called {brief(name)}: rename one")
    return found


def by_name(files: Sequence[Told]) -> tuple[list[Sequence[Label]], tuple[str, ...] | None]:
    """The labels that each file has, and the names of all classes, which the labels are if there are any.

    Numbers in a file without names are those of the other files, if these agree.

    Raises:
        ValueError: if a number stands for none of the names, or for several.
    """
    named = list(dict.fromkeys(file.names for file in files if file.names))
    if not named:
        return [file.labels for file in files], None
    every, labels = tuple(dict.fromkeys(name for names in named for name in names)), list[Sequence[Label]]()
    for file in files:
        own = file.names or (named[0] if len(named) == 1 else ())
        known: dict[Label, Label] = {None: None, **dict(enumerate(own)), **{name: name for name in own or every}}
        for label in dict.fromkeys(file.labels):
            if label in known or (isinstance(label, str) and not label.strip()):
                continue
            known[label] = _find(label, known)
            if known[label] is None:
                several = "" if own else ", and files beside it number them differently"
                raise ValueError(
                    f"{file.where} has the label {brief(label)}, which is none of the {len(own or every)} classes "
                    f"named{several} (or --no-labels)"
                )
        labels.append([known.get(label) for label in file.labels])
    return labels, every


def places_of(
    classes: Sequence[str] | None, names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], dict[Label, int]]:
    """The classes in order, and the number of each by its name, and by the numbers of labels that stand for it.

    These are the places of the source's own `names`. Where it has none, they are what all `classes` are called, if
    these are whole numbers, or else their places.

    Args:
        classes: names in the order that is wanted.
        names: those that the source has; one of the two is there.
        where: the source is, for messages.

    Raises:
        ValueError: if some of the source's classes are not among those that are wanted.
    """
    wanted, own = class_names(classes, GIVEN), tuple(names or ())
    known = wanted or own
    places: dict[Label, int] = {name: number for number, name in enumerate(known)}
    if wanted and all(name == str(number) for number, name in enumerate(own)):  # these are no names
        values = [int(name) if all(map(is_number, wanted)) else number for number, name in enumerate(wanted)]
        return known, places | {value: number for number, value in enumerate(values)}
    if lacking := [name for name in own if name not in places]:
        raise ValueError(
            f"{where} has the class {brief(lacking[0])}, which is none of the {len(known)} of --classes: these are its "
            f"own, {brief(list(own))}, in any order, and perhaps more"
        )
    return known, places | {number: places[name] for number, name in enumerate(own)}


def number(
    labels: Sequence[Any],
    keys: Sequence[str],
    where: str,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Labels as numbers, the names of the classes, and notes.

    Without names integers, also as text, are taken as they are, and the classes are named by them; where they are far
    apart, those that are there are numbered in their order. Text is numbered in alphabetical order. With names, see
    `places_of`.

    Args:
        labels: one per picture, anything at all; all None for none.
        keys: names of the pictures, for messages.
        where: what the labels come from, for messages.
        classes: names that the user gives, in order.
        names: those that the source has, which the labels are, as from `by_name`.

    Raises:
        ValueError: if some pictures have a label and others not, some numbers and others names that nothing numbers,
            or a label is none, negative or none of the names.
    """
    labels = [_plain(label, key, where) for key, label in zip(keys, labels, strict=True)]
    if all(label is None for label in labels):
        return None, None, ()
    if None in labels:
        raise ValueError(
            f"{where}: {labels.count(None)} of {len(labels)} pictures have no label, the first is "
            f"{keys[labels.index(None)]}; give all or none (--no-labels)"
        )
    if names is None:
        _check_mixed(labels, keys, where)
    if not classes and names is None:
        if all(map(is_number, labels)):
            return _as_given([int(label) for label in labels if label is not None], keys, where)
        names = class_names(sorted({str(label) for label in labels}), where)
    known, places = places_of(classes or None, names, where)
    numbers = {label: _find(label, places) for label in set(labels)}
    found = [numbers[label] for label in labels]
    if None in found:
        index = found.index(None)
        by_number = "" if names or all(map(is_number, known)) else f"numbered 0 to {len(known) - 1}, or "
        raise ValueError(
            f"{where}: {keys[index]} has label {brief(labels[index])}, but classes are {by_number}named "
            f"{brief(list(known))}"
        )
    return np.array(found, dtype=np.int64), known, ()


def _as_given(
    values: Sequence[int], keys: Sequence[str], where: str
) -> tuple[NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    distinct, highest = sorted(set(values)), max(values)
    if distinct[0] < 0:
        key, value = next((key, value) for key, value in zip(keys, values, strict=True) if value < 0)
        raise ValueError(f"{where}: {key} has label {value}, but classes are numbered from 0")
    if highest < max(FAR_APART, 10 * len(distinct)):
        return np.array(values, dtype=np.int64), tuple(map(str, range(highest + 1))), ()
    numbers = {value: index for index, value in enumerate(distinct)}
    note = (
        f"{where}: labels are far apart, {distinct[0]} to {highest}: the {len(distinct)} that are there are numbered "
        "in their order"
    )
    return np.array([numbers[value] for value in values]), tuple(map(str, distinct)), (note,)


def _plain(label: Any, key: str, where: str) -> Label:
    """A label in its usual form; None for blanks."""
    if label is None:
        return None
    check_label(label, f"{where}: {key} has")
    if not isinstance(label, str):
        return label
    if len(label) > LONGEST_LABEL:
        raise ValueError(f"{where}: {key} has a label of {len(label):,} characters; at most {LONGEST_LABEL:,} name one")
    return unicodedata.normalize("NFC", label) if label.strip() else None


def _check_mixed(labels: Sequence[Label], keys: Sequence[str], where: str) -> None:
    """Refuse numbers beside names, which nothing says the numbers of."""
    number = next((index for index, label in enumerate(labels) if isinstance(label, int)), None)
    name = next((index for index, label in enumerate(labels) if not is_number(label)), None)
    if number is not None and name is not None:
        raise ValueError(
            f"{where}: {keys[number]} has the number {labels[number]} for a label and {keys[name]} the name "
            f"{brief(labels[name])}: give all as numbers, or all as names"
        )


def _find(label: Label, places: Mapping[Label, Value]) -> Value | None:
    """What a label stands for, as a name if it is one, or else as a number; None for nothing."""
    if not isinstance(label, str):
        return places.get(label)
    found = places.get(unicodedata.normalize("NFC", label))
    return places.get(int(label)) if found is None and is_number(label) else found
