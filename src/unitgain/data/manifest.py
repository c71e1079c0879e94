"""What `unitgain.json` says of prepared data, and whether it can be so."""

import math
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unitgain.classes import check_names
from unitgain.data.numbers import MOST_CHANNELS, Numbers
from unitgain.serial import from_dict
from unitgain.size import MOST_SIDES, Size, show_size, sides_of
from unitgain.text import brief
from unitgain.trust import Limits, parse_json, plain_name, read_regular

FORMAT = "unitgain-data/1"
MANIFEST = "unitgain.json"
UNFINISHED = ".unfinished"
ABOUT = Limits(max_item_bytes=2**30)  # a million shards
LARGEST = 16384  # edge of an image
OWN_COLUMNS = ("image", "latent", "array", "label", "key")
MOST_SIDE = 2**24  # of a value of a condition
MOST_CONDITIONS = 64
LARGEST_SIDE = 2**16  # of an array
Kind = Literal["image", "latent", "array"]  # of rows
WORDS = {"image": "images", "latent": "latents", "array": "arrays"}


class DataError(Exception):
    """Prepared data are damaged or incomplete."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A picture that was left out, and why."""

    key: str
    error: str


@dataclass(frozen=True, kw_only=True)
class ConditionColumn:
    """The values of a condition, each the raw bytes of an array; none where a row has no value.

    Attributes:
        name: of the condition, and of the column.
        shape: of a value; its first side is None where that is the number of tokens.
        dtype: "uint8" of pixels, which networks see from -1 to 1, else "float32".

    Raises:
        ValueError: if that cannot be.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: Literal["float32", "uint8"] = "float32"

    def __post_init__(self) -> None:
        sides = self.shape[1:] if self.shape[:1] == (None,) else self.shape
        known = len(self.shape) <= MOST_SIDES + 1 and all(side is not None and 1 <= side <= MOST_SIDE for side in sides)
        if not known or not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", self.name) or self.name in OWN_COLUMNS:
            raise ValueError(f"a condition {brief(self.name)} of shape {brief(self.shape)}: cannot be")

    def __str__(self) -> str:
        sides = ["any" if side is None else str(side) for side in self.shape]
        return f"{self.name} [{', '.join(sides)}]" if sides else f"{self.name} (a number)"

    @property
    def item(self) -> int:
        """Bytes of a value, or of a token of it."""
        sides = [side for side in self.shape if side is not None]
        return math.prod(sides) * (1 if self.dtype == "uint8" else 4)

    @property
    def tokens(self) -> bool:
        """Whether values are sequences of any length."""
        return self.shape[:1] == (None,)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard.

    Attributes:
        file: its name.
        kind: of its rows, as in `Manifest`.
        rows: images in it.
        bytes: size of the file.
        sha256: of the file.
        items: pictures of the source that it stands for, those that were skipped too.
        resolution: of its rows, as in `Manifest`; None if there are none.
        values: pixels (or places of the latents) per channel, over all its rows.
        sums: of the values, per channel.
        squares: sums of the squares of the values, per channel.
        enlarged: images that had to be enlarged.
        skipped: pictures that could not be used.
        array: of arrays, what their numbers are.
        conditions: what else its rows have.

    Raises:
        ValueError: if it names a file elsewhere, or a number cannot be.
    """

    file: str
    kind: Kind
    rows: int
    bytes: int
    sha256: str
    items: int
    resolution: Size | None = None
    values: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    enlarged: int = 0
    skipped: tuple[Skipped, ...] = ()
    array: Numbers | None = None
    conditions: tuple[ConditionColumn, ...] = ()

    def __post_init__(self) -> None:
        plain_name(self.file, "Shard.file")
        counts = (self.rows, self.bytes, self.items, self.values, self.enlarged)
        if min(counts) < 0 or self.rows > max(self.bytes, 0) or len(self.sums) != len(self.squares):
            raise ValueError(
                f"{self.file}: {self.rows} rows in {self.bytes} bytes, with {self.values} values: cannot be"
            )
        if not all(map(math.isfinite, (*self.sums, *self.squares))):
            raise ValueError(f"{self.file}: its sums are not finite")
        if self.rows and self.resolution is None:
            raise ValueError(f"{self.file}: {self.rows} rows of no resolution")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `unitgain.json` says.

    Attributes:
        kind: "image": encoded 8-bit images; "latent": float32 means, then standard deviations, `[2 C, h, w]`; "array":
            the numbers of arrays `[C, *size]`.
        resolution: of the images or latents: a number for a square, else height and width; of arrays their sides.
        channels: as stored; for latents twice those that the network sees.
        rows: number of images.
        classes: their names; None without labels.
        mean: per channel; of pixels in 0...255, or of drawn latents.
        std: per channel, as `mean`.
        encoder: of latents: what draws and standardizes them, and the VAE that decodes; what standardizes arrays.
        enlarged: images that had to be enlarged.
        skipped: pictures that could not be used; they are listed in `skipped.jsonl`.
        settings: how it was made.
        fingerprint: of all that matters for training.
        shards: the files, in order.
        array: of arrays, what their numbers are.
        conditions: what else rows have, by columns of their names.

    Raises:
        ValueError: if its numbers do not agree with each other.
    """

    format: str = FORMAT
    kind: Kind
    resolution: Size
    channels: int
    rows: int
    classes: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoder: dict[str, Any] | None = None
    enlarged: int = 0
    skipped: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    fingerprint: str
    shards: tuple[Shard, ...]
    array: Numbers | None = None
    conditions: tuple[ConditionColumn, ...] = ()

    def __post_init__(self) -> None:
        means = self.channels // 2 if self.kind == "latent" else self.channels
        arrays = self.kind == "array"
        fits = len(self.size) == 2 or (arrays and 1 <= len(self.size) <= MOST_SIDES)
        fits = fits and all(1 <= side <= (LARGEST_SIDE if arrays else LARGEST) for side in self.size)
        known = self.channels in (1, 3) if self.kind == "image" else 1 <= means <= MOST_CHANNELS
        if not fits or not known or arrays != (self.array is not None):
            raise ValueError(f"{self.kind} of {self.channels} channels, {show_size(self.size)}: cannot be")
        if len(self.mean) != means or len(self.std) != means or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError(f"mean {self.mean} and std {self.std}: {means} finite values each are expected")
        if self.classes is not None and not self.classes:
            raise ValueError("classes: none are named; null says that there are no labels")
        check_names(self.classes or ())
        if not self.shards or self.rows != sum(shard.rows for shard in self.shards):
            raise ValueError(f"{self.rows} rows, where its {len(self.shards)} shards say otherwise")
        if len({shard.file for shard in self.shards}) < len(self.shards):
            raise ValueError("a shard is named twice")
        names = [condition.name for condition in self.conditions]
        if len(set(names)) < len(names) or len(names) > MOST_CONDITIONS:
            raise ValueError(f"{len(names)} conditions, {brief(names)}: each once, and at most {MOST_CONDITIONS}")
        for shard in self.shards:
            values = shard.rows * math.prod(self.size)
            if shard.kind != self.kind or not shard.rows or shard.values != values:
                raise ValueError(
                    f"{shard.file}: {shard.rows} rows, kind {shard.kind!r}, {shard.values} values: cannot be"
                )

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width."""
        return sides_of(self.resolution)


def read_manifest(folder: Path) -> Manifest:
    """What is in a prepared folder.

    Raises:
        FileNotFoundError: if it is none, or one that is not finished.
        DataError: if its `unitgain.json` is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / UNFINISHED).is_dir():
            raise FileNotFoundError(f"{folder} is not finished: run the command that was to make it again")
        what = "does not exist" if not folder.exists() else f"holds no prepared data: it has no {MANIFEST}"
        other = folder.is_dir() and any(folder.iterdir())  # the pictures themselves, by what people do
        source, out = (f"{folder}", f"{folder}-64") if other else ("SOURCE", f"{folder}")
        command = f"unitgain data prepare {shlex.quote(source)} {shlex.quote(out)} --resolution 64"
        raise FileNotFoundError(f"{folder} {what}; make it with: {command}")
    about = read_json(path)
    try:
        if isinstance(about, dict) and about.get("format") != FORMAT:
            raise DataError(f"{path} is in the format {about.get('format')!r}; this version reads {FORMAT!r}")
        return from_dict(Manifest, about)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """What a file of JSON beside prepared data says.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return parse_json(read_regular(path, ABOUT), "it")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
