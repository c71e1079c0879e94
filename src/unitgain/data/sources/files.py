"""Folders, zip archives and tar shards."""

import bz2
import dataclasses
import functools
import gzip
import json
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unitgain.data.sources.labels import (
    LABEL_COLUMNS,
    Label,
    by_folder,
    class_names,
    look_up,
    number,
    parse_json,
    read_labels,
)
from unitgain.data.sources.source import SUFFIXES, Indexed, Notes, SourceOptions, digest, is_hidden, is_picture, stamp
from unitgain.files import atomic
from unitgain.trust import read_member, read_regular

LABEL_FILES = ("dataset.json", "labels.csv")
COMPRESSION = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass(kw_only=True)
class Folder(Indexed):
    """Pictures in a folder and its folders, in the order of their paths."""

    root: Path

    def fetch(self, index: int) -> bytes:
        """The bytes of a file."""
        return read_regular(self.root / self.keys[index], self.limits)


@dataclass(kw_only=True)
class Zip(Indexed):
    """Pictures in a zip archive, in the order of their names."""

    path: Path

    def fetch(self, index: int) -> bytes:
        """The bytes of a member, checked against its checksum."""
        return read_member(open_archive(self.path), self.keys[index], self.limits)


@dataclass(kw_only=True)
class Tar(Indexed):
    """Pictures in tar archives, in the order of the archives and within."""

    paths: Sequence[Path]
    where: NDArray[np.int64]  # [n, 3]: archive, offset, size

    def fetch(self, index: int) -> bytes:
        """The bytes of a member."""
        archive, offset, size = self.where[index].tolist()
        self.limits.check_item("it", size)
        file = _open_file(self.paths[archive])
        if os.fstat(file).st_size < offset + size:
            raise OSError(f"{self.paths[archive]} ends within it")
        return os.pread(file, size, offset)


def open_folder(root: Path, options: SourceOptions) -> Folder:
    """A folder; classes from `options.labels`, a label file in it, or its first-level folders.

    Raises:
        ValueError: if there are no pictures, or labels do not fit.
    """
    keys, notes = [], Notes()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in names:
            key = Path(folder, name).relative_to(root).as_posix()
            if is_hidden(key):
                continue
            if is_picture(name):
                keys.append(key)
            elif key not in LABEL_FILES:
                notes.add("files are no pictures and were left out", key)
    keys.sort()
    file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    own = read_labels(file) if file and options.wants_labels else None
    labels, classes, more = classify(keys, str(root), options, own, file)
    return Folder(
        name=str(root),
        root=root,
        keys=keys,
        limits=options.limits,
        labels=labels,
        classes=classes,
        notes=(*notes.lines(), *more),
        fingerprint=digest([[(key, *stamp(root / key)[1:]) for key in keys], classes, labels]),
    )


def open_zip(path: Path, options: SourceOptions) -> Zip:
    """A zip archive; classes from `options.labels`, the official `dataset.json` in it, or its first-level folders.

    Raises:
        ValueError: if it is damaged or holds no pictures, or labels do not fit.
    """
    try:
        archive = open_archive(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no whole zip archive: {error}") from error
    names, notes = [], Notes()
    for name in sorted(archive.namelist()):
        if name.endswith("/") or is_hidden(name):
            continue
        if is_picture(name):
            names.append(name)
        elif name not in LABEL_FILES:
            notes.add("members are no pictures and were left out", name)
    official = "dataset.json" in archive.namelist()
    where = Path(f"{path}/dataset.json") if official else None
    own = None
    if official and options.wants_labels:
        text = archive.read("dataset.json")
        own = parse_json(text, str(where))
        options = dataclasses.replace(options, classes=options.classes or class_names(text))
    labels, classes, more = classify(names, str(path), options, own, where)
    return Zip(
        name=str(path),
        path=path,
        keys=names,
        limits=options.limits,
        labels=labels,
        classes=classes,
        notes=(*notes.lines(), *more),
        fingerprint=digest([stamp(path), classes, labels]),
    )


def open_tars(paths: Sequence[Path], scratch: Path, options: SourceOptions) -> Tar:
    """Tar archives, plain or as WebDataset has them: files of one sample share their name up to the first dot.

    Classes from `options.labels`, from the `.cls` or `.json` beside each picture, or from first-level folders.
    Compressed archives are unpacked into `scratch`, once.

    Raises:
        ValueError: if one is damaged, there are no pictures, or labels do not fit.
    """
    scan = TarScan()
    unpacked = [_uncompressed(path, scratch, index) for index, path in enumerate(paths)]
    for path, plain in zip(paths, unpacked, strict=True):
        try:
            scan.add(plain)
        except (tarfile.TarError, OSError) as error:
            raise ValueError(f"{path} is no whole tar archive: {error}") from error
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    if options.wants_labels and any(label is not None for label in scan.labels):
        labels, classes = number(scan.labels, scan.names, name, options.classes)
        more: tuple[str, ...] = ()
    else:
        labels, classes, more = classify(scan.names, name, options, None, None)
    keys = scan.names
    if len(paths) > 1:  # the same names may come in each
        keys = [f"{paths[archive].name}/{key}" for (archive, _, _), key in zip(scan.where, keys, strict=True)]
    return Tar(
        name=name,
        paths=unpacked,
        limits=options.limits,
        where=np.array(scan.where, dtype=np.int64).reshape(-1, 3),
        keys=keys,
        labels=labels,
        classes=classes,
        notes=(*scan.notes.lines(), *more),
        fingerprint=digest([*map(stamp, paths), classes, labels]),
    )


def classify(
    keys: Sequence[str], name: str, options: SourceOptions, own: Mapping[str, Label] | None, where: Path | None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Labels, classes and notes of pictures with these paths.

    Args:
        keys: paths of the pictures.
        name: of the source.
        options: may name another file of labels, or want none.
        own: labels that the source brings, by path.
        where: the file that they come from; without one, folders are classes.

    Raises:
        ValueError: if there are no pictures, or labels do not fit.
    """
    if not keys:
        raise ValueError(f"{name} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    if options.no_labels:
        return None, None, ()
    if options.labels is not None:
        own, where = read_labels(options.labels), options.labels
    if own is None:
        labels, classes = by_folder(keys, name) if where is None else (None, None)
        return labels, classes, ()
    found, notes = look_up(own, keys, str(where))
    labels, classes = number(found, keys, str(where), options.classes)
    return labels, classes, notes


@dataclass
class TarScan:
    """What is in tar archives: pictures, where their bytes are, and the labels beside them."""

    names: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    where: list[tuple[int, int, int]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    archives: int = 0

    def add(self, path: Path) -> None:
        """Scan the headers of an archive."""
        beside: dict[str, Label] = {}
        first = len(self.names)
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile() or is_hidden(member.name.removeprefix("./")):
                    continue
                name = member.name.removeprefix("./")
                sample = _sample(name)
                if is_picture(name):
                    self.names.append(name)
                    self.where.append((self.archives, member.offset_data, member.size))
                elif name.endswith((".cls", ".json")):
                    file = archive.extractfile(member)
                    label = _label_beside(name, file.read() if file else b"")
                    if label is not None:
                        beside.setdefault(sample, label)
                else:
                    self.notes.add("members are no pictures and were left out", name)
        self.labels += [beside.get(_sample(name)) for name in self.names[first:]]
        self.archives += 1


def _sample(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label_beside(name: str, data: bytes) -> Label:
    text = data.decode("utf-8", errors="replace").strip()
    if name.endswith(".cls"):
        return text or None
    try:
        values = json.loads(text)
    except ValueError:
        return None
    found = (values.get(key) for key in LABEL_COLUMNS) if isinstance(values, dict) else ()
    return next((label for label in found if isinstance(label, int | str) and not isinstance(label, bool)), None)


def _uncompressed(path: Path, scratch: Path, index: int) -> Path:
    with open(path, "rb") as file:
        magic = file.read(6)
    opener = next((opener for start, opener in COMPRESSION.items() if magic.startswith(start)), None)
    if opener is None:
        if magic.startswith(b"\x28\xb5\x2f\xfd"):
            raise ValueError(f"{path} is compressed with zstd, which cannot be read here: unpack it with unzstd first")
        return path
    plain = scratch / f"{index:05d}-{digest([stamp(path)])[:16]}.tar"
    if not plain.exists():
        try:
            with atomic(plain) as temporary, opener(path, "rb") as packed, open(temporary, "wb") as file:
                shutil.copyfileobj(packed, file, 2**20)  # type: ignore[misc]
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
    return plain


@functools.lru_cache(maxsize=4)
def open_archive(path: Path) -> zipfile.ZipFile:
    """A zip archive, opened once per process."""
    return zipfile.ZipFile(path)


@functools.lru_cache(maxsize=64)
def _open_file(path: Path) -> int:
    return os.open(path, os.O_RDONLY)
