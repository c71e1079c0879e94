"""Images to measure: a folder, a zip archive, prepared data, or the embedded digits."""

import io
import json
import os
import threading
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unitgain.data.digits import digits
from unitgain.extras import require
from unitgain.metrics.record import Source
from unitgain.trust import DEFAULT_LIMITS, Limits, read_member, read_regular

T = TypeVar("T")
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
MANIFEST, GRID = "manifest.json", "grid.png"  # beside images that this package drew
JPEG_START = b"\xff\xd8\xff"
READERS = min(8, os.cpu_count() or 1)
BATCH = 64


class ImageError(Exception):
    """An image cannot be read."""


@runtime_checkable
class Images(Protocol):
    """Images in an order, read in parts.

    Attributes:
        source: what they are.
        scale: mean and standard deviation that their pixels are standardized with; None if they come with none.
    """

    source: Source
    scale: tuple[float, float] | None

    def __len__(self) -> int:
        """How many there are."""
        ...

    def batches(self, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """The images of these numbers, in this order; images of one batch have one shape."""
        ...


class FileImages:
    """Encoded images, decoded a few at a time ahead of their use.

    Args:
        source: what they are.
        names: of each, for messages.
        read: the bytes of an image by its number; called from several threads.
        limits: what one may take.
    """

    def __init__(self, source: Source, names: Sequence[str], read: Callable[[int], bytes], limits: Limits) -> None:
        self.source, self.names, self.read, self.limits = source, names, read, limits
        self.scale: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """As in `Images`.

        Raises:
            ImageError: if one cannot be read; the message names it.
        """
        waiting: list[Tensor] = []
        for image in ahead(self._decode, numbers):
            if waiting and (len(waiting) == BATCH or image.shape != waiting[0].shape):
                yield torch.stack(waiting)
                waiting = []
            waiting.append(image)
        if waiting:
            yield torch.stack(waiting)

    def _decode(self, number: int) -> Tensor:
        try:
            return decode(self.read(number))
        except (UnidentifiedImageError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise ImageError(f"{self.source.name}: cannot read {self.names[number]}: {error}") from error


class Digits:
    """The embedded digits."""

    def __init__(self) -> None:
        data = digits()
        self.images = data.images
        self.source = Source(kind="digits", name="digits")
        self.scale: tuple[float, float] | None = (data.encoder.mean, data.encoder.std)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """As in `Images`."""
        for start in range(0, len(numbers), BATCH):
            yield self.images[torch.tensor(list(numbers[start : start + BATCH]))]


def open_images(name: str, limits: Limits = DEFAULT_LIMITS) -> Images:
    """Images by name.

    Args:
        name: `digits`, a folder with PNG, JPEG or WebP files at any depth, a zip archive of such, or prepared data.
        limits: what an image may take.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if there are no images in it, or latents.
    """
    path = Path(name)
    if name == "digits" and not path.exists():
        return Digits()
    if (path / "state.json").is_file():
        return _prepared(path, limits)
    if path.is_dir():
        return _folder(path, limits)
    if path.suffix == ".zip" and path.is_file():
        return _zip(path, limits)
    if path.exists():
        raise ValueError(f"{path} is neither a folder of images nor a zip archive of them")
    raise FileNotFoundError(f"no images at {path}: name a folder, a zip archive, prepared data, or digits")


def decode(data: bytes) -> UInt8[Tensor, "c h w"]:
    """An 8-bit image, 1 channel if it is grey and 3 otherwise.

    Raises:
        ValueError: if it is transparent, or has more than 8 bits.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"its mode is {image.mode}; 8-bit images are measured")
        if image.has_transparency_data:
            alpha = image.convert("RGBA").getchannel("A")
            if alpha.getextrema() != (255, 255):
                raise ValueError("it is transparent in places: put it on a background first")
        pixels = torch.from_numpy(np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def ahead(function: Callable[[int], T], numbers: Sequence[int], depth: int = 4 * READERS) -> Iterator[T]:
    """`map(function, numbers)` by threads, at most `depth` results ahead of their use."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(function, number))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _is_image(name: str) -> bool:
    parts = Path(name).parts
    return Path(name).suffix.lower() in FORMATS and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _folder(root: Path, limits: Limits) -> FileImages:
    found = sorted(path for path in root.rglob("*") if _is_image(str(path.relative_to(root))) and path.is_file())
    drawn = (root / MANIFEST).is_file()
    paths = [path for path in found if not (drawn and path == root / GRID)]
    names = [path.relative_to(root).as_posix() for path in paths]
    manifest = (root / MANIFEST).read_text(encoding="utf-8") if drawn else None

    def read(number: int) -> bytes:
        return read_regular(paths[number], limits)

    return FileImages(_source("folder", root, names, manifest), names, read, limits)


def _zip(path: Path, limits: Limits) -> FileImages:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.namelist()
            manifest = archive.read(MANIFEST).decode() if MANIFEST in listed else None
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no whole zip archive: {error}") from error
    names = sorted(name for name in listed if _is_image(name) and not (manifest and name == GRID))
    local = threading.local()  # a file of its own per thread: reading from one is not safe

    def read(number: int) -> bytes:
        if not hasattr(local, "archive"):
            local.archive = zipfile.ZipFile(path)
        return read_member(local.archive, names[number], limits)

    return FileImages(_source("zip", path, names, manifest), names, read, limits)


def _prepared(path: Path, limits: Limits) -> FileImages:
    datasets = require("datasets", extra="data")
    table = datasets.load_from_disk(str(path))
    if "image" not in getattr(table, "column_names", ()):
        what = "latents: decode them to images first" if "latent" in table.column_names else "no column `image`"
        raise ValueError(f"{path} holds {what}")
    if isinstance(table.features["image"], datasets.Image):
        table = table.cast_column("image", datasets.Image(decode=False))

    def read(number: int) -> bytes:
        value: Any = table[number]["image"]
        return value["bytes"] if isinstance(value, dict) else value

    names = [f"row {number}" for number in range(len(table))]
    source = Source(kind="prepared", name=str(path), formats=_table_formats(table))
    return FileImages(source, names, read, limits)


def _table_formats(table: Any) -> dict[str, int]:
    """JPEG and other images of a `datasets` table with encoded images, by their first bytes."""
    compute = require("pyarrow.compute", extra="data")
    column = table.with_format("arrow")[:]["image"]
    if hasattr(column.type, "fields"):
        column = compute.struct_field(column, "bytes")
    starts = compute.binary_slice(column, 0, len(JPEG_START))
    jpegs = compute.sum(compute.equal(starts, JPEG_START)).as_py() or 0
    return {kind: count for kind, count in (("jpeg", jpegs), ("other", len(table) - jpegs)) if count}


def _source(kind: str, path: Path, names: Sequence[str], manifest: str | None) -> Source:
    if not names:
        raise ValueError(f"{path} holds no images ({', '.join(FORMATS)})")
    formats = Counter(FORMATS[Path(name).suffix.lower()] for name in names)
    return Source(kind=kind, name=str(path), formats=dict(formats), **_drawn(manifest))


def _drawn(manifest: str | None) -> dict[str, Any]:
    """What a manifest of `unitgain sample` says of images that it lies beside."""
    try:
        about = json.loads(manifest or "{}")
        seeds = [entry["seed"] for entry in about.get("images", ())]
        return {"seeds": as_ranges(seeds) if seeds else None, **drawn(about)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def drawn(about: Mapping[str, Any]) -> dict[str, Any]:
    """Network and sampler for a `Source`, from how a manifest says that images were made."""
    network, guide = about.get("network") or {}, about.get("guide") or {}
    values = {
        **about.get("settings", {}),
        "device": about.get("device"),
        "guide": guide.get("sha256", guide.get("name")),
    }
    pairs = {key: "-".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    sampler = {key: value for key, value in pairs.items() if isinstance(value, str | int | float)}
    return {"snapshot": network.get("name"), "snapshot_hash": network.get("sha256"), "sampler": sampler}


def as_ranges(seeds: Sequence[int]) -> str:
    """Seeds as text, `0-63,100`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
