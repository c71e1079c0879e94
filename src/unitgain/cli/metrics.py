"""`unitgain metrics`."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from unitgain.cli.arguments import Device, Unset, draw_next, names_of, parse_seeds, pick_device, refuse_idle
from unitgain.cli.drawing import Batched, Drawing
from unitgain.console import Console, bar, byte_bar, label, next_step, note, say, show_json
from unitgain.draw.options import options_of
from unitgain.files import check_file, write_text
from unitgain.metrics.weights import Weights
from unitgain.trust import Limits

if TYPE_CHECKING:
    from unitgain.evaluate.images import Images
    from unitgain.evaluate.judge import Judge, Measurement
    from unitgain.metrics.detectors import Scale
    from unitgain.parallel import World

FETCHING = "fetching weights"


@dataclass(frozen=True, kw_only=True)
class Seeing:
    """By what pictures are seen that are to be measured."""

    limits: Limits = field(default_factory=Limits)
    """What may be taken of pictures from elsewhere."""

    weights: Weights = field(default_factory=Weights)

    image_column: Unset[str] = None
    """Of the pictures in tables, and the array in files of several (NPZ, HDF5), of data of --reference too: where that
    has another one, or none, make the reference first. Default: found by its type and name."""

    device: Device = "auto"
    """Where to compute."""

    def pictures(self, name: str, split: str | None, world: "World") -> "Images":
        """Pictures that lie somewhere; the first process says what was left out."""
        from unitgain.evaluate.images import open_images

        say = (lambda text: note(f"note: {text}")) if world.main else (lambda _: None)
        return open_images(name, self.limits, split, say, self.image_column)


@dataclass(frozen=True, kw_only=True)
class Measuring(Seeing):
    """What images are measured against."""

    reference: Unset[str] = None
    """A reference (.npz, or official .pkl), or data, of which one is then made. An Inception score needs none."""

    reference_split: Unset[str] = None
    """Of data of --reference that have several, such as the folders train and val; all: together."""

    @property
    def reads_data(self) -> bool:
        """Whether a reference is made, of data."""
        from unitgain.evaluate.references import SUFFIXES

        return self.reference is not None and Path(self.reference).suffix not in SUFFIXES

    def open_judge(
        self,
        metrics: str,
        world: "World",
        *,
        detector: str | None = None,
        scale: "Scale | None" = None,
    ) -> "Judge":
        """`Judge.open` of metrics by commas, with bars for what is fetched and read."""
        from unitgain.evaluate.judge import Judge

        reference, quiet = self.reference, not world.main
        if reference is not None and self.reads_data:
            reference = self.pictures(reference, self.reference_split, world)
        else:
            refuse_idle(self, ["reference_split"], "for a --reference that is data, of which one is made; leave it out")
        with (
            byte_bar(FETCHING, quiet=quiet) as fetched,
            bar("reading the reference", "images", quiet=quiet, late=True) as read,
        ):
            return Judge.open(
                [name for name in metrics.split(",") if name],
                reference,
                detector=detector,
                weights=self.weights,
                scale=scale,
                limits=self.limits,
                world=world,
                on_bytes=fetched,
                on_images=read,
            )


@dataclass(frozen=True)
class Metrics(Drawing, Batched, Measuring):
    """Measure images, signals or volumes: FID, FD-DINOv2, KID, Inception score, precision, recall, density, coverage.

    All in one pass. A network's images are drawn as they are measured, with the options of `unitgain sample`, and not
    kept; under torchrun the processes share the work. What images are measured against is made once, with:
    unitgain metrics reference DATA
    """

    images: Annotated[str, tyro.conf.Positional]
    """Pictures or arrays: a folder, a zip or tar archive, prepared data, digits, ..., as `unitgain data prepare` reads
    them; or a network: a snapshot (.safetensors), the folder of a run, for the best that is known of it as in `unitgain
    sample`, a preset that was fetched, with its guide, or a repository of the Hugging Face Hub."""

    split: Unset[str] = None
    """Of pictures that have several, such as the folders train and val; all: together."""

    metrics: str = "fid"
    """Of fid, fd_dinov2, fd_pixels, fd, kid, is, precision, recall, density, coverage, or one of your own, a Python
    module:name; kid@dinov2 names a detector."""

    detector: Unset[str] = None
    """Of metrics that name none: inception, dinov2, pixels, a TorchScript file (.pt) or a Python module:function. What
    is in files and modules are programs, and run with all that you may do: name only what you trust. Default:
    inception; pixels against the digits, of signals and volumes, and where the reference has nothing else."""

    repeat: int = 1
    """How many times, with the seeds that follow, or in as many parts of pictures that are there, dealt in turn; the
    papers give the best of 3."""

    seeds: str = "0-49999"
    """Of a network's images, one each."""

    out: Unset[Path] = None
    """Write the records to this file, as JSON."""

    json: bool = False
    """Print the records instead of a table."""

    def run(self) -> None:
        """Measure and print."""
        from unitgain.parallel import processes

        if self.out is not None:
            check_file(self.out, "metrics.json")
        with processes(pick_device(self.device)) as world:
            images = self._open(world)
            judge = self.open_judge(self.metrics, world, detector=self.detector, scale=images.scale)
            with bar("measuring", "images", quiet=not world.main) as progress:
                results = judge.measure(images, self.repeat, progress)
            if world.main:
                self._report(results)
                if not self.json:
                    self._go_on(results)

    def _open(self, world: "World") -> "Images":
        from unitgain.evaluate.generated import Generated
        from unitgain.hub import names_network
        from unitgain.report.known import is_run

        if not names_network(self.images) and not is_run(Path(self.images)):
            images = self.pictures(self.images, self.split, world)
            idle = [*names_of(Drawing, Batched), "seeds"]
            refuse_idle(self, idle, f"for networks, whose images are drawn; {self.images} is none")
            return images
        idle = ["split"] if self.reads_data else ["split", "image_column"]
        refuse_idle(self, idle, f"for pictures that are there; {self.images} is a network, whose images are drawn")
        seeds = parse_seeds(self.seeds)
        main, guide, settings = self.networks(self.images, world.device)
        return Generated(main, guide, settings, seeds, device=world.device, batch=self.batch)

    def _report(self, results: "Sequence[Measurement]") -> None:
        if self.json:
            show_json([result.to_dict() for result in results])
        else:
            show(results)
        if self.out is not None:
            text = json.dumps([result.to_dict() for result in results], indent=1, allow_nan=False)
            write_text(self.out, text + "\n")
            note(f"the records are in {self.out}")

    def _go_on(self, results: "Sequence[Measurement]") -> None:
        """Say how to look at images of a network, or how a reference is made once for many measurements."""
        from unitgain.hub import names_network
        from unitgain.report.known import is_run

        path = Path(self.images)
        if names_network(self.images) or is_run(path):
            out = path / "drawn-measured" if path.is_dir() else Path(f"measured-{path.stem}")
            which = [] if self.classes is None else ["--class", self.classes]
            draw_next(self.images, out, *which, *self.drawn_by(self.guide, self.guidance), aim="look at some of them")
            return
        records = [result.records[0] for result in results]
        names = ",".join(dict.fromkeys(record.detector.name for record in records))
        if self.reference is None or not self.reads_data or self.detector is not None:
            return
        words = ["--features"] if any(not record.metric.startswith("f") for record in records) else []
        words += [] if self.reference_split is None else ["--split", self.reference_split]
        words += [] if self.image_column is None else ["--image-column", self.image_column]
        words += options_of(self.weights, Weights())
        out = f"{Path(self.reference).name}.npz"
        next_step(
            "measure the reference once and for all",
            *("metrics", "reference", self.reference, "--out", out, "--detectors", names, *words),
        )


@dataclass(frozen=True)
class MetricsReference(Seeing):
    """Measure what there is to know of real images, once, for `unitgain metrics --reference`.

    Writes mean and covariance of their features in each detector, with hashes of the detector and of the images.
    """

    data: Annotated[str, tyro.conf.Positional]
    """A folder, a zip or tar archive, prepared data, digits, ..., as `unitgain data prepare` reads them: all of the
    training set."""

    out: Path
    """The file to write, .npz."""

    detectors: str = "inception"
    """Separated by commas: inception, dinov2, pixels, a TorchScript file (.pt) or a Python module:function. The last
    two are programs, and run with all that you may do: name only what you trust."""

    features: bool = False
    """Also keep the features of every image, which KID, precision, recall, density and coverage need."""

    split: Unset[str] = None
    """Of data that have several, such as the folders train and val; all: together."""

    def run(self) -> None:
        """Read all images and write the file."""
        from unitgain.evaluate.references import make_references
        from unitgain.metrics.record import jpeg_warning
        from unitgain.metrics.reference import save_references
        from unitgain.metrics.weights import check_arrays, open_detector
        from unitgain.parallel import processes

        if self.out.suffix != ".npz":
            raise ValueError(f"--out {self.out}: a reference is an .npz file")
        check_file(self.out, "real.npz")
        names = list(dict.fromkeys(name for name in self.detectors.split(",") if name))
        self.weights.check_used(names)
        with processes(pick_device(self.device)) as world:
            images = self.pictures(self.data, self.split, world)
            if images.arrays:
                check_arrays(names)
            with byte_bar(FETCHING, quiet=not world.main) as fetched:
                weights = self.weights.fetch(names, world, fetched)
            opened = [open_detector(name, world.device, weights, scale=images.scale) for name in names]
            rows = [detector.info.name for detector in opened] if self.features else []
            with bar("reading", "images", quiet=not world.main) as progress:
                summaries, fingerprint = make_references(images, opened, rows=rows, world=world, on_images=progress)
            if world.main:
                save_references(self.out, summaries, images.source.name, fingerprint)
                size = self.out.stat().st_size / 1e6
                say(f"{len(images):,} images in the features of {', '.join(summaries)}: {self.out}, {size:,.1f} MB")
                say(f"for metrics, sweep and tune: --reference {shlex.quote(str(self.out))}")
                if images.source.formats.get("jpeg"):
                    Console(soft_wrap=True).print(label("warning: ", jpeg_warning(images.source), "yellow"))


def show(results: "Sequence[Measurement]") -> None:
    """A table, and what to beware of."""
    repeated = len(results[0].records) > 1
    values = ("best", "spread") if repeated else ("value", "±")
    table = Table("metric", *values, "detector", "images", "against", box=None)
    for result in results:
        first = result.records[0]
        second = result.spread if repeated else first.deviation
        table.add_row(
            first.metric,
            f"{result.best:.6g}",
            "" if second is None else f"{second:.3g}",
            first.detector.name,
            f"{len(result.records)} x {first.images:,}" if repeated else f"{first.images:,}",
            first.reference.name if first.reference else "",
        )
    console = Console()
    console.print(table)
    lines = (line for result in results for record in result.records for line in record.warnings)
    for line in dict.fromkeys(lines):
        console.print(label("warning: ", line, "yellow"), soft_wrap=True)
