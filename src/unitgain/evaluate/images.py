"""Images to measure: any source of `unitgain data prepare` but a stream, prepared data, or the embedded digits."""

import dataclasses
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from unitgain.data.digits import digits
from unitgain.data.encoder import PixelEncoder
from unitgain.data.fit import Fit, ImageError, decode_flat
from unitgain.data.images import from_image
from unitgain.data.sources import Indexed, Item, SourceOptions, open_source
from unitgain.data.sources.columns import Table, count_jpegs
from unitgain.data.workers import cores, in_order
from unitgain.draw.archive import MANIFEST
from unitgain.files import near
from unitgain.metrics.record import Source
from unitgain.metrics.summary import PIXELS, tile_of
from unitgain.text import printable, ranges
from unitgain.trust import DEFAULT_LIMITS, LimitError, Limits, read_member, read_regular

JPEGS = ("jpg", "jpeg", "jpe", "jfif")
READERS = 8  # threads, where there are as many cores
BATCH = 64
WAITING = 3 * PIXELS  # bytes of a picture that is decoded ahead of its turn


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
        files: where they are.
        source: what they are.
        scratch: what `files` has unpacked, which goes with this object.
    """

    def __init__(self, files: Indexed, source: Source, scratch: tempfile.TemporaryDirectory | None = None) -> None:
        self.files, self.source, self._scratch = files, source, scratch
        self.scale: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """As in `Images`.

        Raises:
            ImageError: if one cannot be read; the message names it.
        """
        waiting: list[Tensor] = []
        for image in in_order(self._ahead, map(self.files.item, numbers), min(cores(), READERS)):
            whole = self._decode(image, self.files.limits) if isinstance(image, Item) else image
            most = tile_of(whole)
            if waiting and (len(waiting) >= most or whole.shape != waiting[0].shape):
                yield torch.stack(waiting)
                waiting = []
            if most == 1:
                yield whole[None]  # without a copy
            else:
                waiting.append(whole)
            del image, whole  # before the next one, which may be as large
        if waiting:
            yield torch.stack(waiting)

    def _ahead(self, item: Item) -> Tensor | Item:
        """A picture, or one that would take too much of the memory while it waits, to be decoded later."""
        limits = self.files.limits
        try:
            return self._decode(item, dataclasses.replace(limits, max_item_bytes=min(WAITING, limits.max_item_bytes)))
        except ImageError as error:
            if isinstance(error.__cause__, LimitError):
                return item
            raise

    def _decode(self, item: Item, limits: Limits) -> Tensor:
        try:
            return decode(item.load(), limits)
        except ImageError as error:
            raise ImageError(f"{self.source.name}: {item.key} {error}") from error.__cause__
        except Exception as error:  # such as a MemoryError
            why = f"cannot be used: {type(error).__name__} {printable(error)}".rstrip()
            raise ImageError(f"{self.source.name}: {item.key} {why}") from error


class Digits:
    """The embedded digits."""

    def __init__(self) -> None:
        data = digits()
        self.images = data.images
        self.source = Source(kind="digits", name="digits")
        assert isinstance(data.encoder, PixelEncoder)
        self.scale: tuple[float, float] | None = (data.encoder.mean, data.encoder.std)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """As in `Images`."""
        for start in range(0, len(numbers), BATCH):
            yield self.images[torch.tensor(list(numbers[start : start + BATCH]))]


def open_images(
    name: str,
    limits: Limits = DEFAULT_LIMITS,
    split: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Images:
    """Images by name.

    Args:
        name: `digits`, or a source as `unitgain.data.prepare_data` takes it: a folder, an archive, prepared data, ...
        limits: what an image may take.
        split: of a set that has several; "all" for all of them.
        say: told what the user should know about the source, such as files that were left out.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if there are no images in it, latents, or several splits and none is chosen.
    """
    path = Path(name)
    if name == "digits" and not path.exists():
        return Digits()
    if not path.exists():
        what = "a folder, a zip archive, prepared data, or digits"
        raise FileNotFoundError(f"no images at {path}: name {what}{near(path)}")
    scratch = tempfile.TemporaryDirectory()
    files = open_source(name, Path(scratch.name), SourceOptions(no_labels=True, split=split, limits=limits))
    assert isinstance(files, Indexed), "only sets on the Hub are streams"
    for note in files.notes:
        say(note)
    source = Source(kind=files.kind, name=files.name, formats=_formats(files), **_drawn(_manifest(files, path)))
    return FileImages(files, source, scratch)


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> UInt8[Tensor, "c h w"]:
    """A picture as `unitgain data prepare` reads it: upright, on white, 8 bits; 1 channel if it is grey, 3 otherwise.

    Raises:
        ImageError: if it cannot be decoded, or is larger than `limits` allow.
    """
    return from_image(decode_flat(data, Fit(resolution=None), limits))


def _manifest(files: Indexed, path: Path) -> bytes | None:
    """What lies beside images that this package drew."""
    if files.kind == "folder" and (path / MANIFEST).is_file():
        return read_regular(path / MANIFEST, files.limits, below=path)
    if files.kind == "zip":
        with zipfile.ZipFile(path) as archive:
            return read_member(archive, MANIFEST, files.limits) if MANIFEST in archive.namelist() else None
    return None


def _formats(files: Indexed) -> dict[str, int]:
    """Number of images by format: by their names, or in tables by their first bytes."""
    if isinstance(files, Table):
        jpegs = count_jpegs(files.parts())
        return {kind: count for kind, count in (("jpeg", jpegs), ("other", len(files) - jpegs)) if count}
    suffixes = Counter(PurePosixPath(key).suffix.lower().lstrip(".") for key in files.keys)
    counts = Counter[str]()
    for suffix, count in suffixes.items():
        counts["jpeg" if suffix in JPEGS else suffix] += count
    return dict(counts)


def _drawn(manifest: bytes | None) -> dict[str, Any]:
    """What a manifest of `unitgain sample` says of images that it lies beside."""
    try:
        about = json.loads(manifest or b"{}")
        seeds = [entry["seed"] for entry in about.get("images", ())]
        return {"seeds": as_ranges(seeds) if seeds else None, **drawn(about)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def drawn(about: Mapping[str, Any]) -> dict[str, Any]:
    """Network and sampler for a `Source`, from how a manifest says that images were made."""
    network, guide = about.get("network") or {}, about.get("guide") or {}
    values = {
        **about.get("settings", {}),
        "device": about.get("device"),
        "guide": guide.get("sha256", guide.get("name")),
    }
    rows = values.get("conditions") or {}
    values["conditions"] = f"{rows.get('data')}[{rows.get('rows') or ':'}]" if isinstance(rows, dict) and rows else None
    pairs = {key: "-".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    sampler = {key: value for key, value in pairs.items() if isinstance(value, str | int | float)}
    return {
        "snapshot": network.get("name"),
        "snapshot_hash": network.get("sha256"),
        "guide": guide.get("name"),
        "sampler": sampler,
    }


def as_ranges(seeds: Sequence[int]) -> str:
    """Seeds as text, `0-63,100`."""
    return ranges(sorted(seeds))
