"""Tar archives: plain, compressed, one within another, and the shards of WebDataset."""

import bz2
import gzip
import itertools
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from unitgain.data.cells import parse_wanted
from unitgain.data.sources.classes import classify
from unitgain.data.sources.labels import LABEL_COLUMNS
from unitgain.data.sources.listing import LABEL_FILES, Listing, companions, plain_path, text
from unitgain.data.sources.source import Indexed, SourceOptions, digest, is_hidden, is_picture, stamp
from unitgain.data.sources.splits import SPLIT, RowSplits
from unitgain.files import atomic
from unitgain.text import brief
from unitgain.trust import Limits, open_regular, parse_json

COMPRESSION = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ZSTANDARD = b"\x28\xb5\x2f\xfd"
NESTED = 3  # archives within one another
LARGEST_LABEL = 2**20  # bytes of a file beside a picture
LARGEST_HEADER = 2**24
LABEL = ""  # stands for the key of the label, which no column is called
Span = tuple[int, int, int]  # archive, offset, size


def open_tars(
    paths: Sequence[Path],
    scratch: Path,
    options: SourceOptions,
    splits: RowSplits,
    names: Sequence[str] | None = None,
) -> Indexed:
    """Tar archives, plain or as WebDataset has them: files of one sample share their name up to the first dot.

    What is called like a picture but for the suffix speaks of that one alone (`a.1.json` of `a.1.png`).

    Classes from `options.labels`, from the `.cls` or `.json` beside each picture, from files of labels, from
    first-level folders, or from the names of archives that are no shards. Compressed archives are unpacked into
    `scratch`, once.

    Args:
        paths: the archives.
        scratch: folder for what has to be unpacked.
        options: what may have to be said about them.
        splits: what they are called by, as from `choose_files`.
        names: of the archives, paths within the folder that they lie in.

    Raises:
        ValueError: if one is damaged, there are no pictures, or labels do not fit.
    """
    columns = dict.fromkeys((*(parse_wanted(text).column for text in options.conditions or ()), SPLIT))
    scan = TarScan(columns=tuple(columns), wants_labels=options.wants_labels, label=options.label_column)
    unpacked = [_uncompressed(path, scratch, index, options.limits) for index, path in enumerate(paths)]
    names = names or [path.name for path in paths]
    for index, (path, plain) in enumerate(zip(paths, unpacked, strict=True)):
        try:
            scan.add(plain, f"{names[index]}/" if len(paths) > 1 else "")  # the same names may come in each
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except (tarfile.TarError, OSError, RecursionError) as error:
            raise ValueError(f"{path} is no whole tar archive: {error}") from error
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    def read(span: Span) -> bytes:
        archive, offset, size = span
        options.limits.check_item("it", size)
        with open_regular(unpacked[archive]) as file:
            if os.fstat(file.fileno()).st_size < offset + size:
                raise OSError(f"{unpacked[archive]} ends within it")
            file.seek(offset)
            return file.read(size)

    source = classify(scan.all, "tar", name, options, read, scan.beside, scan.samples, scan.further, splits.known)
    source.fingerprint = digest([*map(stamp, paths), source.classes, source.labels])
    return source


@dataclass
class TarScan:
    """What is in tar archives, and the labels beside pictures.

    Attributes:
        all: that all archives hold, each with its name before those of its files.
        columns: of conditions and splits: keys of the JSON beside a picture, or what files beside it end in.
        wants_labels: whether what says the classes of pictures is read.
        label: key of its class in the JSON, cls for `.cls`; by default this or a usual key.
        beside: labels of pictures, anything at all.
        samples: these of pictures, by column, those in files as their names.
        further: these files.
        count: of the archives.
    """

    columns: tuple[str, ...] = ()
    wants_labels: bool = True
    label: str | None = None
    all: Listing[Span] = field(default_factory=Listing[Span])
    beside: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    further: dict[str, Span] = field(default_factory=dict)
    count: int = 0

    def add(self, path: Path, prefix: str) -> None:
        """Scan the headers of an archive; `prefix` comes before the names of its files."""
        with open_regular(path) as file:
            self._scan(file, prefix, path.stat().st_size, 1)
        self.count += 1

    def _scan(self, file: BinaryIO, prefix: str, end: int, depth: int) -> None:
        """Scan the archive that begins where `file` is, and those within it."""
        own = Listing[Span](notes=self.all.notes)
        told: dict[str, dict[str, Any]] = {}  # by the name of a member; of several with one name the last counts
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore[arg-type]
            for member in itertools.takewhile(lambda member: member.offset < end, archive):
                self._add_member(own, told, archive, member)
        own.resolve_links()
        for name in [name for name in own.pictures if _ending(name) in self.columns]:
            self.further[prefix + name] = own.pictures.pop(name)
            told[name] = {_ending(name): posixpath.basename(name)}
        for name in sorted(companions(own.pictures)):
            del own.pictures[name]
            own.notes.add("files are further pictures of a sample, such as masks, and were left out", prefix + name)
        for name in own.parquet:
            own.notes.add("tables within archives were left out: unpack the archive", prefix + name)
        for name, cells in _by_picture(list(own.pictures), told):
            if LABEL in cells:
                self.beside[prefix + name] = cells.pop(LABEL)
            if cells:
                self.samples[prefix + name] = cells
        self.all.pictures |= {prefix + name: place for name, place in own.pictures.items()}
        self.all.tables |= {prefix + name: place for name, place in own.tables.items()}
        self.all.folders |= {prefix + folder for folder in own.folders}
        for name, (_, offset, size) in own.archives.items():
            file.seek(offset)
            if depth == NESTED or file.read(6).startswith((*COMPRESSION, ZSTANDARD)):
                own.notes.add("archives within archives were left out: unpack the outer one", prefix + name)
                continue
            file.seek(offset)
            self._scan(file, f"{prefix}{name}/", offset + size, depth + 1)

    def _add_member(
        self,
        own: Listing[Span],
        told: dict[str, dict[str, Any]],
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
    ) -> None:
        name = member.name
        if member.isdir():
            own.add_folder(name)
        elif member.issym() or member.islnk():
            folder = posixpath.dirname(name) if member.issym() else ""
            own.add_link(name, posixpath.join(folder, member.linkname))
        elif not member.isfile() or member.issparse():
            if is_picture(name):
                own.notes.add("files are devices, pipes or sparse and were left out", text(name))
        elif _is_beside(member):
            plain, stream = plain_path(name), archive.extractfile(member)
            if not plain or is_hidden(plain) or not stream:
                return
            told.pop(text(plain), None)
            if cells := self._read_beside(text(plain), stream.read()):
                told[text(plain)] = cells
        else:
            own.add(name, (self.count, member.offset_data, member.size))

    def _read_beside(self, name: str, data: bytes) -> dict[str, Any]:
        """What a file says of the picture that it lies beside: values by column, of its class by `LABEL`.

        The bytes stand for a label that is no text in UTF-8.
        """
        if name.endswith(".cls"):
            if not self.wants_labels or self.label not in (None, "cls"):
                return {}
            return {LABEL: label} if (label := _decoded(data)) else {}
        try:
            values = parse_json(data, name, unique=True)
        except ValueError:
            if self.wants_labels and isinstance(_decoded(data), bytes):
                return {LABEL: data}
            self.all.notes.add("files beside pictures are no JSON, or have a key twice, and were not used", name)
            return {}
        if not isinstance(values, dict):
            return {}
        cells = {column: values[column] for column in self.columns if column in values}
        keys = (self.label,) if self.label else LABEL_COLUMNS
        label = next((values[key] for key in keys if values.get(key) is not None), None)
        return cells if label is None or not self.wants_labels else {**cells, LABEL: label}


class _Headers:
    """A file, for `tarfile`, which reads headers as long as they say that they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        """As that of a file."""
        if size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _stem(name: str) -> str:
    """A name without its suffix, `.nii.gz` as one."""
    return posixpath.splitext(name.removesuffix(".gz"))[0]


def _sample(name: str) -> str:
    """What names of one sample have in common."""
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.partition(".")[0])


def _ending(name: str) -> str:
    """What is behind the first dot of a name: what it is of its sample."""
    return posixpath.basename(name).partition(".")[2]


def _is_beside(member: tarfile.TarInfo) -> bool:
    """Whether a file says something of the picture beside it, rather than of all."""
    known = member.name.endswith((".cls", ".json")) and member.size <= LARGEST_LABEL
    return known and posixpath.basename(member.name).lower() not in LABEL_FILES


def _decoded(data: bytes) -> str | bytes:
    """Bytes as text, if they are some in UTF-8."""
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        return data


def _by_picture(pictures: Sequence[str], told: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each picture, and what members say of it: those called like it but for the suffix, then others of its sample.

    Raises:
        ValueError: if two say different things.
    """
    stems, own, sample = {_stem(name) for name in pictures}, dict[str, list[str]](), dict[str, list[str]]()
    for member in told:
        stem = _stem(member)
        own.setdefault(stem, []).append(member)
        if stem not in stems or stem == _sample(member):  # else it is of that picture alone
            sample.setdefault(_sample(member), []).append(member)
    for name in pictures:
        nearest = _agreed(name, {member: told[member] for member in own.get(_stem(name), ())})
        yield name, _agreed(name, {member: told[member] for member in sample.get(_sample(name), ())}) | nearest


def _agreed(picture: str, told: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What members say of a picture, by column; a `ValueError` if two say different things."""
    found = dict[str, tuple[str, Any]]()
    for member, cells in told.items():
        for column, value in cells.items():
            first, before = found.setdefault(column, (member, value))
            if str(before) != str(value):
                what, choose = brief(column), ""
                if column == LABEL:
                    what, choose = "label", ", or choose with --label-column KEY (cls for the .cls)"
                raise ValueError(
                    f"{first} and {member} are both beside {picture}, with the {what} {brief(before)} and "
                    f"{brief(value)}: leave one{choose}"
                )
    return {column: value for column, (_, value) in found.items()}


def _uncompressed(path: Path, scratch: Path, index: int, limits: Limits) -> Path:
    with open_regular(path) as file:
        magic = file.read(6)
    opener = next((opener for start, opener in COMPRESSION.items() if magic.startswith(start)), None)
    if opener is None:
        if magic.startswith(ZSTANDARD):
            raise ValueError(f"{path} is compressed with zstd, which cannot be read here: unpack it with unzstd first")
        return path
    plain = scratch / f"{index:05d}-{digest([stamp(path)])[:16]}.tar"
    if not plain.exists():
        try:
            with atomic(plain) as temporary, opener(path, "rb") as packed, open(temporary, "wb") as file:
                while part := packed.read(2**20):
                    file.write(part)
                    limits.check_source(f"{path}, unpacked,", file.tell(), path.stat().st_size)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
    return plain
