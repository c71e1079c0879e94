"""Labels of pictures as files hold them: the official `dataset.json`, CSV, JSON Lines, our own."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unitgain.data.sources.lines import Lines, parse_lines
from unitgain.data.sources.numbering import Label, check_label, class_names, is_number
from unitgain.files import near
from unitgain.text import brief
from unitgain.trust import Limits, parse_json, read_regular

Value = TypeVar("Value")
FILE_COLUMNS = ("file", "file_name", "filename", "name", "path", "image", "key")
LABEL_COLUMNS = ("label", "class", "category", "labels", "class_name", "cls", "target")
TABLE = Limits(max_item_bytes=2**30)  # of a file of labels


@dataclass(frozen=True)
class LabelFile:
    """A file of labels.

    Attributes:
        where: it is, for messages.
        labels: by the name of the picture.
        names: of the classes that its numbers stand for, if it has some.
    """

    where: str
    labels: dict[str, Label]
    names: tuple[str, ...] | None = None


def read_labels(path: Path, column: str | None = None) -> tuple[LabelFile, Lines | None]:
    """A CSV, JSON Lines or `dataset.json` file of labels; and the rows of a table.

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


def parse_labels(name: str, data: bytes, where: str) -> LabelFile | None:
    """A JSON file that may hold labels.

    Args:
        name: of the file, which says what it is.
        data: its bytes.
        where: for messages.

    Returns:
        None if the file is of a kind that often holds none, and does not; one of no labels if it says so.

    Raises:
        ValueError: if it is not what its name says.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8: labels are a CSV file or the official dataset.json") from error
    return _drawn(text, where) if name.lower() == "manifest.json" else _official(text, where)


def _official(text: str, where: str) -> LabelFile:
    """`{"labels": [[name, int], ...]}`, or null for none; our own exports add the names of `classes`.

    Raises:
        ValueError: if it says anything else.
    """
    about = parse_json(text, where, unique=True)
    try:
        labels = about["labels"]
        if labels is None:
            return LabelFile(where, {})
        rows = [(str(name), label) for name, label in (labels.items() if isinstance(labels, Mapping) else labels)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{where} is not in the official form: expected {{"labels": [["name.png", 3], ...]}} or {{"labels": null}}'
        ) from error
    for name, label in rows:
        check_label(label, f"{where}: {name} has")
    return LabelFile(where, once(rows, where, "label"), class_names(about.get("classes"), where))


def labels_of(name: str, lines: Lines, where: str, column: str | None = None) -> LabelFile | None:
    """The labels in the rows of a table, whose columns are found by their names.

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
        path, value = str(row.get(file) or "").strip(), row.get(label)
        value = value.strip() if isinstance(value, str) else value
        if not path or value in (None, ""):
            raise ValueError(f"{where}, line {line}: file or label is missing")
        check_label(value, f"{where}, line {line}:")
        found.append((path, value))
    labels = once(found, where, "label")
    if all(map(is_number, labels.values())):
        labels = {path: int(value or 0) for path, value in labels.items()}
    return LabelFile(where, labels)


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


def _drawn(text: str, where: str) -> LabelFile | None:
    """The classes in the manifest of images that this package drew."""
    try:
        manifest = parse_json(text, where)
        if not str(manifest["format"]).startswith("unitgain-images/"):
            return None
        labels = {str(entry["file"]): entry["class"] for entry in manifest["images"]}
    except (ValueError, TypeError, KeyError):
        return None
    if any(not isinstance(label, int) for label in labels.values()):
        return LabelFile(where, {})
    return LabelFile(where, labels, class_names(manifest.get("classes"), where))


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
    further = [same_name(other) for other in others]
    labels: list[Value | None] = []
    used = {path: path for path in further if path in plain}  # names of rows, and the picture that each is of
    for path in map(same_name, keys):
        row = path if path in plain else path.rpartition("/")[2]
        if row in plain and used.setdefault(row, path) != path:
            raise ValueError(
                f"{where}: {row} may be {used[row]} or {path}: give the paths of files, not their names alone"
            )
        labels.append(plain.get(row))
    if found and all(label is None for label in labels):
        raise ValueError(f"{where} names none of the pictures: it has {next(iter(found))!r}, they are as {keys[0]!r}")
    left = len(plain.keys() - used.keys() - {path.rpartition("/")[2] for path in further})
    return labels, (f"{left} {what} of {where} name pictures that are not there",) if left > 0 else ()


def same_name(name: str) -> str:
    """A path in the one form that paths are compared in."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))
