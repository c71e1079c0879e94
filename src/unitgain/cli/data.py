"""`unitgain data`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from unitgain.cli.arguments import Device, Unset, pick_device
from unitgain.console import Console, bar, next_step, note, say, show_json
from unitgain.data.fit import Fit
from unitgain.data.manifest import WORDS, Manifest, read_manifest
from unitgain.data.settings import Normalization, OnError, PixelRange
from unitgain.data.sources import SourceOptions
from unitgain.files import atomic
from unitgain.serial import to_dict
from unitgain.size import show_size
from unitgain.text import one_line

if TYPE_CHECKING:
    from unitgain.data.check import DataReport

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LISTED = 10  # of what may be many: errors, duplicates, classes

DataFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Make training data of any images, or of signals, fields and volumes.

    SOURCE is a folder (classes: its first-level folders, or a dataset.json, labels.csv, metadata.csv or metadata.jsonl
    in it), a zip of the official kind, tar or WebDataset shards, tars of a class each, a parquet file or folder, a
    directory of the datasets library, images that `unitgain sample` drew, or hub:org/name, which the datasets library
    unpacks past --max-item-bytes.
    Folders and archives may hold arrays (.npy, .npz, .h5), audio (.wav, .flac, .ogg) or volumes (.nii, .nii.gz) instead
    of pictures; a file .npy, .npz or .h5 is arrays stacked along its first axis. A table (.csv, .tsv, .jsonl, .parquet)
    pairs files with classes and conditions.
    An interrupted call goes on where it was when it is given again.
    """

    source: Annotated[str, tyro.conf.Positional]
    """Where the images are."""

    dest: Annotated[Path, tyro.conf.Positional]
    """Folder for the result."""

    fit: Fit = field(default_factory=lambda: Fit(resolution=None))
    """What becomes of a picture."""

    reading: SourceOptions = field(default_factory=SourceOptions)
    """What may have to be said about the source."""

    on_error: OnError = "fail"
    """What to do about a picture that cannot be used: stop, or leave it out and list it."""

    shard: Unset[int] = None
    """Pictures per file. Default: up to 1024, fewer when they are large."""

    workers: Unset[int] = None
    """Threads. Default: one per core."""

    def run(self) -> None:
        """Make the data, or go on with them."""
        from unitgain.data.prepare import prepare_data

        with bar("preparing", "images") as progress:
            manifest = prepare_data(
                self.source,
                self.dest,
                self.fit,
                options=self.reading,
                on_error=self.on_error,
                workers=self.workers,
                shard=self.shard,
                on_progress=progress,
                say=_note,
            )
        if manifest.kind == "latent" and manifest.encoder is not None:
            _note(f"the archive does not say of which VAE its latents are: taken for {manifest.encoder['vae']}")
        _summarize(self.dest, manifest)


@dataclass(frozen=True)
class Check:
    """Read all of prepared data: is it whole, what is in it, which noise levels does it need?

    Exits with 1 if a file is damaged or an image cannot be read.
    """

    data: DataFolder
    """The prepared folder."""

    json: bool = False
    """Print JSON."""

    workers: Unset[int] = None
    """Threads. Default: one per core."""

    def run(self) -> None:
        """Print what was found."""
        from unitgain.data.check import advice, check

        with bar("checking", "images") as progress:
            report = check(self.data, workers=self.workers, on_progress=progress)
        sentences = advice(report, read_manifest(self.data))
        if self.json:
            show_json({**to_dict(report), "advice": sentences})
        else:
            _print_report(report, sentences)
        if not report.healthy:
            sys.exit(1)
        if not self.json:
            _train_next(self.data)


@dataclass(frozen=True)
class Show:
    """Draw a contact sheet: some images of each class."""

    data: DataFolder
    """The prepared folder; latents are decoded by their VAE."""

    out: Unset[Path] = None
    """The picture: .png, .jpg or .webp. Default: beside the folder, DATA.png."""

    columns: int = 12
    """Images in a row."""

    rows: int = 20
    """Rows at most."""

    seed: int = 0
    """Of the choice of images."""

    def run(self) -> None:
        """Write the picture."""
        from unitgain.data.prepared import PreparedDataset
        from unitgain.data.sheet import contact_sheet

        folder = self.data if self.data.name not in ("", "..") else self.data.resolve()
        out = self.out or folder.with_name(f"{folder.name}.png")
        if out.suffix.lower() not in PICTURES:
            raise ValueError(f"--out {out}: must end in {', '.join(PICTURES)}")
        sheet = contact_sheet(PreparedDataset(self.data), self.columns, self.rows, self.seed)
        kind = out.suffix.lower().lstrip(".").replace("jpg", "jpeg")
        with atomic(out) as temporary:
            sheet.save(temporary, format=kind)
        say(out)
        _train_next(self.data)


@dataclass(frozen=True)
class Encode:
    """Make latents of prepared pixels with a VAE.

    Means and standard deviations are stored and a latent is drawn anew at each use. Under torchrun the processes share
    the work. An interrupted call goes on where it was when it is given again.
    """

    data: DataFolder
    """The prepared folder."""

    latents: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LATENTS")]
    """Folder for the result."""

    vae: str
    """Folder or Hub id of a diffusers AutoencoderKL; stabilityai/sd-vae-ft-mse for the official networks."""

    normalization: Normalization = "auto"
    """official: that of the official networks; measured: mean 0 and standard deviation 0.5 in each channel; auto:
    official for the official VAE, else measured."""

    pixels: PixelRange = "0..1"
    """What the VAE is fed with: 0..1 as the official networks have it, -1..1 as diffusers has it otherwise."""

    batch: int = 16
    """Images at a time."""

    device: Device = "auto"
    """Where the VAE runs."""

    def run(self) -> None:
        """Make the latents, or go on with them."""
        from unitgain.data.latents import encode, is_official
        from unitgain.parallel import processes

        with processes(pick_device(self.device)) as world:
            if world.main and self.normalization == "auto":
                known = is_official(self.vae)
                note(f"normalization: {'official' if known else 'measured on these latents'}")
            with bar("encoding", "images", quiet=not world.main) as progress:
                manifest = encode(
                    self.data,
                    self.latents,
                    self.vae,
                    world=world,
                    normalization=self.normalization,
                    pixels=self.pixels,
                    batch=self.batch,
                    on_progress=progress,
                )
            if world.main:
                _summarize(self.latents, manifest)


@dataclass(frozen=True)
class Export:
    """Write prepared data as the archive that the official code reads."""

    data: DataFolder
    """The prepared folder."""

    zip: Annotated[Path, tyro.conf.Positional]
    """The archive."""

    def run(self) -> None:
        """Write the archive."""
        from unitgain.data.export import export
        from unitgain.data.prepared import PreparedDataset

        with bar("exporting", "images") as progress:
            export(PreparedDataset(self.data), self.zip, progress, _note)
        say(f"{self.zip}  ({self.zip.stat().st_size / 1e6:,.1f} MB)")
        _train_next(self.data)


def _note(text: str) -> None:
    note(f"note: {text}")


def _summarize(folder: Path, manifest: Manifest) -> None:
    from unitgain.data.shards import SKIPPED

    classes = f", {len(manifest.classes)} classes" if manifest.classes is not None else ""
    what, each = WORDS[manifest.kind], 2 if manifest.kind == "latent" else 1  # mean and standard deviation
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    sides = show_size(manifest.resolution)
    shape = f"{manifest.channels // each}x{sides}"
    say(f"{manifest.rows:,} {what} of {shape}{classes} in {folder} ({size:,.1f} MB)")
    if manifest.enlarged:
        say(f"{manifest.enlarged:,} pictures were smaller than {sides} pixels and were enlarged")
    if manifest.skipped:
        say(f"{manifest.skipped:,} pictures could not be used and were left out; {folder / SKIPPED} lists them")
    if manifest.conditions:
        say(f"conditions: {', '.join(map(str, manifest.conditions))}")
    if manifest.encoder is not None:
        for name, values in (("mean", manifest.mean), ("std", manifest.std)):
            say(f"measured {name} per channel: {', '.join(f'{value:.4g}' for value in values)}")
        for name in ("mean", "std"):
            say(f"normalized with {name}: {', '.join(f'{value:.4g}' for value in manifest.encoder[name])}")
    _train_next(folder)


def _train_next(folder: Path) -> None:
    next_step("train on them", "train", "--data", folder)


def _print_report(report: "DataReport", sentences: list[str]) -> None:
    console = Console(soft_wrap=True)
    shape = "x".join(map(str, report.shape))
    what = WORDS[report.kind]
    console.print(f"{report.rows:,} {what} of {shape}, {report.bytes / 1e6:,.1f} MB")
    for count, text in ((report.enlarged, "were enlarged"), (report.skipped, "were left out when the data were made")):
        if count:
            console.print(f"{count:,} pictures {text}")
    for name, rows in report.conditions:
        console.print(f"condition {name}: {rows:,} rows have it")
    if report.classes is not None:
        _print_balance(console, report.classes, report.counts)
    for file in report.damaged:
        console.print(f"DAMAGED: {one_line(file)}")
    _print_some(console, "rows cannot be used", [f"row {row}, {key}: {text}" for row, key, text in report.errors])
    groups = [" = ".join(key for _, key, _ in group) for group in report.duplicates]
    across = sum(len({label for _, _, label in group}) > 1 for group in report.duplicates)
    note = f" ({across} of them across classes)" if across else ""
    _print_some(console, f"groups of exact duplicates{note}", groups)
    table = Table("channel", "mean", "std", box=None)
    for channel, (mean, std) in enumerate(zip(report.mean, report.std, strict=True)):
        table.add_row(str(channel), f"{mean:.4g}", f"{std:.4g}")
    console.print(table)
    for sentence in sentences:
        console.print(sentence)


def _print_balance(console: Console, classes: tuple[str, ...], counts: tuple[int, ...]) -> None:
    order = sorted(range(len(classes)), key=lambda index: -counts[index])
    empty = sum(count == 0 for count in counts)
    largest, smallest = counts[order[0]], counts[order[-1]]
    console.print(
        f"{len(classes)} classes of {smallest:,} to {largest:,} images"
        + (f"; {empty} of them are empty" if empty else "")
        + (f"; the largest has {largest / smallest:.1f} times the images of the smallest" if smallest else "")
    )
    shown = order if len(order) <= 2 * LISTED else [*order[:LISTED], *order[-LISTED:]]
    table = Table("class", "images", "", box=None)
    for position, index in enumerate(shown):
        if position == LISTED and len(shown) < len(order):
            table.add_row("...", "", "")
        table.add_row(one_line(classes[index]), f"{counts[index]:,}", "#" * round(30 * counts[index] / max(largest, 1)))
    console.print(table)


def _print_some(console: Console, what: str, rows: list[str]) -> None:
    console.print(f"{len(rows):,} {what}" + (":" if rows else ""))
    for row in rows[:LISTED]:
        console.print(f"  {one_line(row)}")
    if len(rows) > LISTED:
        console.print(f"  and {len(rows) - LISTED:,} more (--json lists all)")
