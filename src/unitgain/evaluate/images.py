"""Images or arrays to measure: any source of `unitgain data prepare` but a stream, prepared data, or the digits."""

import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from unitgain.data.dataset import Dataset
from unitgain.data.digits import digits
from unitgain.data.encoder import ArrayEncoder, Encoder, LatentEncoder, PixelEncoder
from unitgain.data.manifest import MANIFEST as PREPARED
from unitgain.data.manifest import read_manifest
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import Indexed, SourceOptions, open_source
from unitgain.data.sources.columns import Table, count_jpegs
from unitgain.data.sources.splits import ALL
from unitgain.draw.archive import MANIFEST
from unitgain.evaluate.files import FileImages
from unitgain.files import near
from unitgain.metrics.detectors import Scale
from unitgain.metrics.record import Source
from unitgain.metrics.summary import as_seen, tile_of
from unitgain.text import ranges
from unitgain.trust import DEFAULT_LIMITS, Limits, read_member, read_regular

JPEGS = ("jpg", "jpeg", "jpe", "jfif")


@runtime_checkable
class Images(Protocol):
    """Images or arrays in an order, read in parts.

    Attributes:
        source: what they are.
        scale: mean and standard deviation that their pixels, or each channel of arrays, are standardized with; None if
            they come with none.
        arrays: whether these are signals, fields or volumes rather than pictures.
    """

    source: Source
    scale: Scale | None
    arrays: bool

    def __len__(self) -> int:
        """How many there are."""
        ...

    def batches(self, numbers: Sequence[int]) -> Iterator[Shaped[Tensor, "n c *size"]]:
        """The images of these numbers, in this order, as `as_seen` has them; images of one batch have one shape."""
        ...


class DataImages:
    """The rows of a data set: prepared arrays, the embedded digits, what is in memory.

    Args:
        dataset: any but of latents.
        kind: of the source, for records.

    Raises:
        ValueError: if these are latents.
    """

    def __init__(self, dataset: Dataset, kind: str = "images") -> None:
        if dataset.latents:
            raise ValueError(f"{dataset.name} holds latents: decode them to images first")
        self.dataset, self.source = dataset, Source(kind=kind, name=dataset.name)
        self.scale, self.arrays = scale_of_encoder(dataset.encoder), isinstance(dataset.encoder, ArrayEncoder)

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, numbers: Sequence[int]) -> Iterator[Shaped[Tensor, "n c *size"]]:
        """As in `Images`."""
        encoder, each = self.dataset.encoder, tile_of(self.dataset.stored_shape[1:])
        for start in range(0, len(numbers), each):
            rows, _ = self.dataset.rows(np.array(numbers[start : start + each], dtype=np.int64))
            drawn = rows.is_floating_point() and isinstance(encoder, PixelEncoder)  # as what a network draws of them
            yield as_seen(encoder.decode(rows) if drawn else rows)


def scale_of_encoder(encoder: Encoder) -> Scale | None:
    """Mean and standard deviation that pixels or arrays are standardized with; None of latents."""
    return None if isinstance(encoder, LatentEncoder) else (encoder.mean, encoder.std)


def open_images(
    name: str,
    limits: Limits = DEFAULT_LIMITS,
    split: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    column: str | None = None,
) -> Images:
    """Images or arrays by name.

    Args:
        name: `digits`, or a source as `unitgain.data.prepare_data` takes it: a folder, an archive, prepared data, ...
        limits: what an image may take.
        split: of a set that has several; "all" for all of them.
        say: told what the user should know about the source, such as files that were left out.
        column: of the images in a table, or the array in files of several.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if there are no images in it, latents, or several splits and none is chosen.
    """
    path = Path(name)
    own = name == "digits" and not path.exists()
    arrays = (path / PREPARED).is_file() and read_manifest(path).kind == "array"
    given = f"image column {column!r}" if column is not None else f"split {split!r}"
    if (own or arrays) and (column is not None or split not in (None, ALL)):
        raise ValueError(f"{given}: {name} is one set, without splits or columns; leave it out")
    if own:
        return DataImages(digits(), "digits")
    if not path.exists():
        what = "a folder, a zip archive, prepared data, or digits"
        raise FileNotFoundError(f"no images at {path}: name {what}{near(path)}")
    if arrays:
        return DataImages(PreparedDataset(path), "prepared")
    scratch = tempfile.TemporaryDirectory()
    options = SourceOptions(no_labels=True, conditions=(), split=split, image_column=column, limits=limits)
    files = open_source(name, Path(scratch.name), options)
    assert isinstance(files, Indexed), "only sets on the Hub are streams"
    for note in files.notes:
        say(note)
    source = Source(kind=files.kind, name=files.name, formats=_formats(files), **_drawn(_manifest(files, path)))
    layout = None if source.seeds is None else "channels-first"  # as samples are written
    return FileImages(files, source, layout=layout, scratch=scratch)


def _manifest(files: Indexed, path: Path) -> bytes | None:
    """What lies beside images that this package drew."""
    if files.kind == "folder" and (path / MANIFEST).is_file():
        return read_regular(path / MANIFEST, files.options.limits, below=path)
    if files.kind == "zip":
        with zipfile.ZipFile(path) as archive:
            return read_member(archive, MANIFEST, files.options.limits) if MANIFEST in archive.namelist() else None
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
