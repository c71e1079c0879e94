"""Labels of pictures: as numbers, and as files hold them: the official `dataset.json`, CSV, JSON Lines, our own."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unitgain.data.sources.lines import Lines, parse_lines
from unitgain.files import near
from unitgain.text import brief
from unitgain.trust import Limits, read_regular
from unitgain.trust import parse_json as read_json

Label = int | str | None
Value = TypeVar("Value")
FILE_COLUMNS = ("file", "file_name", "filename", "name", "path", "image", "key")
LABEL_COLUMNS = ("label", "class", "category", "labels", "class_name", "cls", "target")
TABLE = Limits(max_item_bytes=2**30)  # of a file of labels
FAR_APART = 100_000  # a number of classes that nobody has by tenths


def number(
    labels: Sequence[Label], keys: Sequence[str], where: str, names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Labels as numbers, the names of the classes, and notes.

    Integers, also as text, are taken as they are, and the classes are named by them unless `names` are given; where
    they are far apart, those that are there are numbered in their order. Text is numbered in alphabetical order, or in
    that of `names`.

    Args:
        labels: one per picture; all None for none.
        keys: names of the pictures, for messages.
        where: what the labels come from, for messages.
        names: of the classes.

    Raises:
        ValueError: if some pictures have a label and others not, or a number is negative or past the names.
    """
    if all(label is None for label in labels):
        return None, None, ()
    if None in labels:
        missing = [key for key, label in zip(keys, labels, strict=True) if label is None]
        raise ValueError(
            f"{where}: {len(missing)} of {len(labels)} pictures have no label, the first is {missing[0]}; give all or "
            "none (--no-labels)"
        )
    if all(is_number(label) for label in labels):
        return _as_given([int(label) for label in labels if label is not None], keys, where, names)
    texts = [unicodedata.normalize("NFC", str(label)) for label in labels]
    known = (
        tuple(unicodedata.normalize("NFC", name) for name in names) if names is not None else tuple(sorted(set(texts)))
    )
    numbers = {name: index for index, name in enumerate(known)}
    for key, text in zip(keys, texts, strict=True):
        if text not in numbers:
            raise ValueError(f"{where}: {key} has label {text!r}, which is none of the {len(known)} classes named")
    return np.array([numbers[text] for text in texts], dtype=np.int64), known, ()


def _as_given(
    values: Sequence[int], keys: Sequence[str], where: str, names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    highest, distinct = max(values), sorted(set(values))
    if names is None and distinct[0] >= 0 and highest >= max(FAR_APART, 10 * len(distinct)):
        numbers = {value: index for index, value in enumerate(distinct)}
        note = (
            f"{where}: labels are far apart, {distinct[0]} to {highest}: the {len(distinct)} that are there are "
            "numbered in their order"
        )
        return np.array([numbers[value] for value in values]), tuple(map(str, distinct)), (note,)
    count = len(names) if names is not None else highest + 1
    for key, value in zip(keys, values, strict=True):
        if not 0 <= value < count:
            raise ValueError(f"{where}: {key} has label {value}, but classes are numbered 0 to {count - 1}")
    known = tuple(names) if names is not None else tuple(map(str, range(count)))
    return np.array(values, dtype=np.int64), known, ()


def read_labels(path: Path, column: str | None = None) -> tuple[dict[str, Label], Lines | None]:
    """The labels in a CSV, JSON Lines or `dataset.json` file, by the name of the picture; and the rows of a table.

    Args:
        path: of the file.
        column: of the labels in a table; found by its name by default.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is none of these.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file of labels at {path}{near(path)}")
    data, lines = read_regular(path, TABLE), None
    if path.name.lower().endswith(".json"):
        found = parse_labels(path.name, data, str(path))
    else:
        lines = parse_lines(path.name, data, str(path))
        found = labels_of(path.name, lines, str(path), column)
    if found is None:
        raise ValueError(
            f"{path} holds no labels: expected columns of files ({', '.join(FILE_COLUMNS)}) and of labels "
            f"({', '.join(LABEL_COLUMNS)}, or --label-column)"
        )
    return found, lines


def parse_labels(name: str, data: bytes, where: str) -> dict[str, Label] | None:
    """The labels in a JSON file that may hold some, by the name of the picture.

    Args:
        name: of the file, which says what it is.
        data: its bytes.
        where: for messages.

    Returns:
        None if the file is of a kind that often holds none, and does not; empty if it says that there are none.

    Raises:
        ValueError: if it is not what its name says.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8: labels are a CSV file or the official dataset.json") from error
    return _drawn(text) if name.lower() == "manifest.json" else parse_json(text, where) or {}


def parse_json(text: str | bytes, where: str) -> dict[str, Label] | None:
    """`{"labels": [[name, int], ...]}`; None for `{"labels": null}`.

    Raises:
        ValueError: if it says anything else.
    """
    form = 'expected {"labels": [["name.png", 3], ...]} or {"labels": null}'
    try:
        labels = read_json(text, where, unique=True)["labels"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where} is not in the official form: {form}") from error
    if labels is None:
        return None
    try:
        rows = [(str(name), label) for name, label in (labels.items() if isinstance(labels, Mapping) else labels)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is not in the official form: {form}") from error
    for name, label in rows:
        check_label(label, f"{where}: {name} has")
    return once(rows, where, "label")


def check_label(label: object, where: str) -> None:
    """Raise `ValueError` if a label is none."""
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise ValueError(f"{where} label {label!r}; one class per picture, as a number or a name")


def class_names(text: str | bytes) -> tuple[str, ...] | None:
    """The names of the classes, which our own exports add to the official form."""
    about = read_json(text, "a file of labels")
    names = about.get("classes") if isinstance(about, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def labels_of(name: str, lines: Lines, where: str, column: str | None = None) -> dict[str, Label] | None:
    """The labels in the rows of a table, by the name of the picture; columns are found by their names.

    Args:
        name: of the file: `metadata.csv` and `metadata.jsonl`, which may hold captions or boxes instead, may lack them.
        lines: its rows.
        where: for messages.
        column: as in `read_labels`.

    Raises:
        ValueError: if there is no column of files or of labels, and there must be, or a cell of one holds none.
    """
    names = lines.names
    file, label = find_column(names, FILE_COLUMNS), find_column(names, (column,) if column else LABEL_COLUMNS)
    if file is None or label is None:
        if name.lower().startswith("metadata.") and column is None:
            return None
        raise ValueError(
            f"{where} needs a header with a column of files ({', '.join(FILE_COLUMNS)}) and one of labels "
            f"({column or ', '.join(LABEL_COLUMNS)}); its columns are {', '.join(names) or 'none'}"
        )
    found = list[tuple[str, Label]]()
    for line, row in lines.rows:
        path, value = row.get(file), row.get(label)
        if not path or value in (None, ""):
            raise ValueError(f"{where}, line {line}: file or label is missing")
        check_label(value, f"{where}, line {line}:")
        found.append((str(path).strip(), value.strip() if isinstance(value, str) else value))
    return once(found, where, "label")


def once(rows: Iterable[tuple[str, Value]], where: str, what: str) -> dict[str, Value]:
    """What rows say of each picture, by its name.

    Args:
        rows: names of pictures, and what is said of each.
        where: they are, for messages.
        what: it is, for messages.

    Raises:
        ValueError: if two rows say different things of one picture.
    """
    found: dict[str, Value] = {}
    names: dict[str, str] = {}  # of one picture, which may be written in several ways
    for name, value in rows:
        before = names.setdefault(same_name(name), name)
        if found.setdefault(before, value) != value:
            raise ValueError(
                f"{where}: {name} is there twice, with the {what} {brief(found[before])} and {brief(value)}: leave "
                "one of these rows"
            )
    return found


def find_column(names: Sequence[str | None], wanted: Sequence[str]) -> str | None:
    """The name of a column of a table: the first of those wanted that it has, as it is or else whatever the case."""
    columns = {(name or "").strip().lower(): name or "" for name in reversed(names)}
    columns |= {name: name for name in names if name}
    found = (columns.get(one, columns.get(one.strip().lower())) for one in wanted)
    return next((name for name in found if name is not None), None)


def _drawn(text: str) -> dict[str, Label] | None:
    """The classes in the manifest of images that this package drew."""
    try:
        manifest = read_json(text, "manifest.json")
        if not str(manifest["format"]).startswith("unitgain-images/"):
            return None
        labels = {str(entry["file"]): entry["class"] for entry in manifest["images"]}
    except (ValueError, TypeError, KeyError):
        return None
    return {} if any(not isinstance(label, int) for label in labels.values()) else labels


def look_up(
    found: Mapping[str, Value], keys: Sequence[str], where: str, what: str = "labels", others: Iterable[str] = ()
) -> tuple[list[Value | None], tuple[str, ...]]:
    """The label of each picture by its path or, where that fails, its name alone; and notes on labels left over.

    Anything else that pictures have does as well; `what` says what it is. `others` are pictures that are left out, of
    which rows may speak, too.

    Accents match however they are composed, which differs among systems.

    Raises:
        ValueError: if no picture has one, or one name stands for several pictures.
    """
    plain = {same_name(key): label for key, label in found.items()}
    labels: list[Value | None] = []
    used: dict[str, str] = {}  # names of rows, and a picture that has each
    for key in keys:
        path = same_name(key)
        row = path if path in plain else path.rpartition("/")[2]
        if row != path and used.setdefault(row, key) != key and row in plain:
            raise ValueError(
                f"{where}: {row} may be {used[row]} or {key}: give the paths of files, not their names alone"
            )
        labels.append(plain.get(row))
        used[row] = key
    if found and all(label is None for label in labels):
        raise ValueError(f"{where} names none of the pictures: it has {next(iter(found))!r}, they are as {keys[0]!r}")
    for path in map(same_name, others):
        used |= {path: path, path.rpartition("/")[2]: path}
    left = len(plain.keys() - used.keys())
    return labels, (f"{left} {what} of {where} name pictures that are not there",) if left > 0 else ()


def same_name(name: str) -> str:
    """A path in the one form that paths are compared in."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def is_number(label: Label) -> bool:
    """Whether a label is a whole number, perhaps as text."""
    return isinstance(label, int) or (isinstance(label, str) and re.fullmatch(r"-?[0-9]+", label) is not None)
