"""Classes of images by name or by number. Names come from folders and files, and are never more than text.

A name is shown through `Classes.label`, which leaves no control characters and cuts it short; it never becomes a path.
"""

import csv
import difflib
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unitgain.text import brief, one_line
from unitgain.trust import Limits, read_regular

LONGEST = 1000  # characters of a name
SHOWN = 40  # of them, where names are shown
LISTED = 10  # names in an error
FILE = Limits(max_item_bytes=2**24)  # of names
COMPARED = 10_000  # names that a wrong one is compared with
ALL = "all"
Class = int | str  # a class by its number, or its name


@dataclass(frozen=True)
class Classes:
    """The classes that a network or data know.

    Args:
        count: how many; 0 for an unconditional network, None where that is not known.
        names: one for each, where they are known; two may have the same.

    Raises:
        ValueError: if there are not as many names as classes, or one is too long.
    """

    count: int | None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.names is not None:
            if len(self.names) != self.count:
                raise ValueError(f"there are {len(self.names)} names of classes, for {self.count} classes")
            check_names(self.names)

    def label(self, number: int) -> str:
        """What a class is called where it is shown: its name, short enough for a line, or else its number."""
        names = self.names or ()
        return shown_name(names[number]) if 0 <= number < len(names) else str(number)

    def number(self, which: Class) -> int:
        """A class by its number, 0 and up, or its name; a name goes before a number that is spelled like it.

        Case and the way in which accents are composed count only where names differ in nothing else.

        Raises:
            ValueError: if there is no such class, or there are several of this name.
        """
        if isinstance(which, str):
            if (named := self.named(which)) is not None:
                return named
            if not re.fullmatch(r"\s*\d{1,9}\s*", which, re.ASCII):
                raise ValueError(f"there is no class {shown_name(which)!r}{self._nearest(which)}: {self._known()}")
        number = int(which) if isinstance(which, str) else operator.index(which)
        if self.count is not None and not 0 <= number < self.count:
            raise ValueError(f"label {number} is out of range: {self._known()}")
        return number

    def named(self, name: str) -> int | None:
        """The number of the class of a name, as in `number`; None if there is none.

        Raises:
            ValueError: if there are several of this name.
        """
        matches = self._exact.get(name) or self._folded.get(_fold(name)) or []
        if len(matches) > 1:
            numbers = ", ".join(map(str, matches[:LISTED]))
            raise ValueError(f"the classes {numbers} are all called {shown_name(name)!r}: give a number")
        return matches[0] if matches else None

    def carried(self, other: "Classes", used: Iterable[int]) -> dict[int, int]:
        """The numbers here of classes that go by others there: by their names, or, where a side has none, by their
        numbers, if there are as many.

        Args:
            other: the classes there.
            used: numbers there.

        Raises:
            ValueError: if there is none of a name here, or there are no names to go by and other numbers of classes.
        """
        if self.names == other.names or not (self.is_named and other.is_named):
            if self.count != other.count:
                raise ValueError(f"{other.summary()}, without names in common to go by: {self._known()}")
            return {number: number for number in used}
        found = {}
        for number in used:
            place = self.named((other.names or ())[number])
            if place is None:
                raise ValueError(f"there is no class {other.label(number)!r}: {self._known()}")
            found[number] = place
        return found

    @property
    def is_named(self) -> bool:
        """Whether classes have names that are more than their numbers."""
        return self.names is not None and self.names != tuple(map(str, range(len(self.names))))

    def numbers(self, which: Iterable[Class]) -> list[int]:
        """Several classes, each as in `number`."""
        return [self.number(one) for one in which]

    def parse(self, text: str) -> tuple[int, ...]:
        """Classes from text: a name or number, a list of them, ranges with both ends, or "all".

        `flags`, `0,1,2`, `0-4`, `flags,3`. A name with a comma in it stands alone, or between double quotes.

        Raises:
            ValueError: if a part is none of these, or a class comes twice.
        """
        if self._is_name(text):
            return (self.number(text),)
        if self.count and text.strip().lower() == ALL:
            return tuple(range(self.count))
        try:
            parts = next(csv.reader([text], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise ValueError(f"cannot read the classes {brief(text)}: {error}") from error
        if not parts:
            raise ValueError("no class is named: give a name, a number, a list such as 0,1,2 or a range such as 0-4")
        chosen = [number for part in parts for number in self._range(part.strip())]
        often, times = Counter(chosen).most_common(1)[0]
        if times > 1:
            raise ValueError(f"the classes {brief(text)} name {self.label(often)!r} twice")
        return tuple(chosen)

    def spelled(self, number: int, *words: str) -> str:
        """The first text that `number` and `parse` take for this class: of some words, its number, its name, or its
        number after zeros.

        Raises:
            ValueError: if there is no such class, or each of these is the name of another.
        """
        zeros = (str(number).zfill(width) for width in range(2, 10))
        for word in (*words, str(number), *(self.names or ())[number : number + 1], *zeros):
            with suppress(ValueError):
                if (word := word.strip()) and word.isprintable() and self.number(word) == number:
                    return word
        raise ValueError(f"no text stands for class {number}: {self._known()}")

    def text(self, numbers: Sequence[int]) -> str:
        """Classes as `parse` reads them, by their numbers where those are not names of others."""
        words = [self.spelled(number) for number in numbers]
        quoted = ['"{}"'.format(word.replace('"', '""')) if re.search('[",]', word) else word for word in words]
        return words[0] if len(words) == 1 else ",".join(quoted)

    def _range(self, part: str) -> Sequence[int]:
        """The classes of one part of a list."""
        if not self._is_name(part):
            for dash in (match.start() for match in re.finditer("-", part)):
                first, last = part[:dash].strip(), part[dash + 1 :].strip()
                if all(self._is_name(end) or re.fullmatch(r"[0-9]{1,9}", end) for end in (first, last)):
                    ends = self.number(first), self.number(last)
                    if ends[1] < ends[0]:
                        raise ValueError(f"the range of classes {brief(part)} ends before it begins")
                    return range(ends[0], ends[1] + 1)
        return (self.number(part),)

    def _is_name(self, text: str) -> bool:
        return text in self._exact or _fold(text) in self._folded

    @cached_property
    def _exact(self) -> dict[str, list[int]]:
        return _places(self.names or ())

    @cached_property
    def _folded(self) -> dict[str, list[int]]:
        return _places(map(_fold, self.names or ()))

    def _nearest(self, name: str) -> str:
        wanted, known = _fold(name)[:LONGEST], list(self._folded)[:COMPARED]
        near = [one for one in known if len(one) > 2 and (one in wanted or wanted in one)] if len(wanted) > 2 else []
        near = sorted(near, key=lambda one: abs(len(one) - len(wanted)))
        near = near or difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        return f" (did you mean {self.label(self._folded[near[0]][0])!r}?)" if near else ""

    def summary(self, most: int = LISTED) -> str:
        """How many classes there are, and the names of the first."""
        names = [self.label(number) for number in range(min(len(self.names or ()), most))]
        more = ", ..." if len(names) < (self.count or 0) else ""
        return f"{self.count} classes" + (f" ({', '.join(names)}{more})" if names else "")

    def _known(self) -> str:
        if self.count == 0:
            return "the network is unconditional"
        if self.count is None:
            return "names are not known here, give a number"
        known = f"the network knows the classes 0 to {self.count - 1}"
        if self.names is None:
            return f"{known}, and not their names"
        if not self.is_named:
            return known
        some = ", ".join(f"{number} {self.label(number)}" for number in range(min(self.count, LISTED)))
        return f"{known}: {some}{', ...' if self.count > LISTED else ''}"


def check_names(names: Sequence[str]) -> None:
    """Raise `ValueError` if a name of a class is longer than a name may be, such as a caption."""
    for number, name in enumerate(names):
        if len(name) > LONGEST:
            raise ValueError(
                f"the name of class {number} has {len(name):,} characters, and at most {LONGEST:,} are a name: "
                f"{shown_name(name)}"
            )


def read_names(path: Path) -> tuple[str, ...]:
    """Names of classes from a text file, a line for each.

    Raises:
        ValueError: if it is no text in UTF-8, or a line is too long to be a name.
    """
    try:
        names = read_regular(path, FILE).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: names of classes are a line each") from error
    names = tuple(name.strip() for name in names)
    check_names(names)
    return names


def shown_name(name: str) -> str:
    """A name as a part of a line: blanks for all white space, no control characters, cut short."""
    text = one_line(re.sub(r"\s+", " ", name[: SHOWN + 1]))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(name, []).append(number)
    return places
