"""Classes of pictures: from folders, from the official `dataset.json`, from CSV, from columns of tables."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Label = int | str | None
FILE_COLUMNS = ("file", "file_name", "filename", "name", "path", "image", "key")
LABEL_COLUMNS = ("label", "class", "category", "labels", "class_name", "cls", "target")


def number(
    labels: Sequence[Label], keys: Sequence[str], where: str, names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Labels as numbers, and the names of the classes.

    Integers, also as text, are taken as they are, and the classes are named by them unless `names` are given. Text is
    numbered in alphabetical order, or in that of `names`.

    Args:
        labels: one per picture; all None for none.
        keys: names of the pictures, for messages.
        where: what the labels come from, for messages.
        names: of the classes.

    Raises:
        ValueError: if some pictures have a label and others not, or a number is negative or past the names.
    """
    if all(label is None for label in labels):
        return None, None
    if None in labels:
        missing = [key for key, label in zip(keys, labels, strict=True) if label is None]
        raise ValueError(
            f"{where}: {len(missing)} of {len(labels)} pictures have no label, the first is {missing[0]}; give all or "
            "none (--no-labels)"
        )
    if all(_is_number(label) for label in labels):
        values = np.array([int(label) for label in labels], dtype=np.int64)  # type: ignore[arg-type]
        known = tuple(names) if names is not None else tuple(map(str, range(int(values.max()) + 1)))
        wrong = np.flatnonzero((values < 0) | (values >= len(known)))
        if len(wrong):
            first = int(wrong[0])
            raise ValueError(
                f"{where}: {keys[first]} has label {values[first]}, but classes are numbered 0 to {len(known) - 1}"
            )
        return values, known
    texts = [str(label) for label in labels]
    known = tuple(names) if names is not None else tuple(sorted(set(texts)))
    numbers = {name: index for index, name in enumerate(known)}
    for key, text in zip(keys, texts, strict=True):
        if text not in numbers:
            raise ValueError(f"{where}: {key} has label {text!r}, which is none of the {len(known)} classes named")
    return np.array([numbers[text] for text in texts], dtype=np.int64), known


def by_folder(keys: Sequence[str], where: str) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Classes from the first-level folder of each path, in order: by number if all are numbers, else by name.

    Folders that hold everything are passed over (`train/cat/1.png`: the class is `cat`).

    Raises:
        ValueError: if some pictures lie in folders and others beside them.
    """
    parts = [key.split("/") for key in keys]
    depth = 0
    while all(len(part) > depth + 2 and part[depth] == parts[0][depth] for part in parts):
        depth += 1
    inside = [len(part) > depth + 1 for part in parts]
    if not any(inside):
        return None, None
    if not all(inside):
        first = keys[inside.index(False)]
        raise ValueError(
            f"{where}: {sum(inside)} pictures lie in folders, which name their classes, and "
            f"{len(inside) - sum(inside)} lie beside them ({first}): move those into folders, or give --no-labels"
        )
    folders = {part[depth] for part in parts}
    order = (lambda name: (int(name), name)) if all(map(_is_number, folders)) else None
    names = sorted(folders, key=order)
    numbers = {name: index for index, name in enumerate(names)}
    return np.array([numbers[part[depth]] for part in parts], dtype=np.int64), tuple(names)


def read_labels(path: Path) -> dict[str, Label]:
    """The labels in a CSV or `dataset.json` file, by the name of the picture.

    Raises:
        ValueError: if it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: labels are a CSV file or the official dataset.json") from error
    return parse_json(text, str(path)) or {} if path.suffix.lower() == ".json" else parse_csv(text, str(path))


def parse_json(text: str | bytes, where: str) -> dict[str, Label] | None:
    """`{"labels": [[name, int], ...]}`; None for `{"labels": null}`.

    Raises:
        ValueError: if it says anything else.
    """
    form = 'expected {"labels": [["name.png", 3], ...]} or {"labels": null}'
    try:
        labels = json.loads(text)["labels"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is not in the official form: {form}") from error
    if labels is None:
        return None
    try:
        found = {str(name): label for name, label in (labels.items() if isinstance(labels, Mapping) else labels)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is not in the official form: {form}") from error
    for name, label in found.items():
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise ValueError(f"{where}: {name} has label {label!r}; one class per picture, as a number or a name")
    return found


def class_names(text: str | bytes) -> tuple[str, ...] | None:
    """The names of the classes, which our own exports add to the official form."""
    names = json.loads(text).get("classes")
    return tuple(map(str, names)) if isinstance(names, list) else None


def parse_csv(text: str, where: str) -> dict[str, Label]:
    """A table with a header; the columns are found by their names.

    Raises:
        ValueError: if there is no column of files or of labels.
    """
    rows = csv.DictReader(io.StringIO(text))
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    file = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
    label = next((columns[name] for name in LABEL_COLUMNS if name in columns), None)
    if file is None or label is None:
        raise ValueError(
            f"{where} needs a header with a column of files ({', '.join(FILE_COLUMNS)}) and one of labels "
            f"({', '.join(LABEL_COLUMNS)}); its columns are {', '.join(rows.fieldnames or ()) or 'none'}"
        )
    found: dict[str, Label] = {}
    for line, row in enumerate(rows, 2):
        if not row[file] or not row[label]:
            raise ValueError(f"{where}, line {line}: file or label is missing")
        found[row[file].strip()] = row[label].strip()
    return found


def look_up(found: Mapping[str, Label], keys: Sequence[str], where: str) -> tuple[list[Label], tuple[str, ...]]:
    """The label of each picture by its path or, where that fails, its name alone; and notes on labels left over.

    Raises:
        ValueError: if no picture has one.
    """
    plain = {key.removeprefix("./"): label for key, label in found.items()}
    labels = [plain.get(key, plain.get(key.rpartition("/")[2])) for key in keys]
    if found and all(label is None for label in labels):
        raise ValueError(f"{where} names none of the pictures: it has {next(iter(found))!r}, they are as {keys[0]!r}")
    left = len(plain) - sum(key in plain or key.rpartition("/")[2] in plain for key in keys)
    return labels, (f"{left} labels of {where} name pictures that are not there",) if left > 0 else ()


def _is_number(label: Label) -> bool:
    return isinstance(label, int) or (isinstance(label, str) and label.isascii() and label.lstrip("-").isdecimal())
