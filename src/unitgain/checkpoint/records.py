"""What stands in for the classes and calls of a pickle: records that do nothing."""

from dataclasses import dataclass


class Refused(ValueError):
    """A file holds what its format has no place for. Nothing in it was executed."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names, as text; never imported."""

    path: str


@dataclass(eq=False, slots=True)
class Call:
    """What a pickle wants called; never called.

    Attributes:
        name: of the class or function.
        args: its arguments.
        at: where in the file, in bytes.
        state: what the pickle wants to put into the result.
    """

    name: str
    args: tuple[object, ...]
    at: int
    state: object = None


@dataclass(frozen=True, eq=False, slots=True)
class Text:
    """A long string, UTF-8, not decoded."""

    data: memoryview
