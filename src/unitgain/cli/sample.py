"""`unitgain sample`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unitgain.cli.arguments import Device, Unset, parse_seeds, pick_device
from unitgain.cli.drawing import Batched, Drawing
from unitgain.console import bar, next_step, note, say
from unitgain.draw.options import options_of
from unitgain.draw.settings import Animation, DrawSettings, FromPicture

if TYPE_CHECKING:
    from unitgain.classes import Classes
    from unitgain.draw.networks import Network
    from unitgain.parallel import World

SEEDS = "0-63"


@dataclass(frozen=True)
class Sample(Drawing, Batched):
    """Draw images with a network, guided or not.

    Image number s depends on the networks, the settings and s alone: not on the batch size, the number of processes or
    which others are drawn with it. Writes <thousand>/<seed>.png for each and manifest.json, which says how they were
    made. Called again it goes on where it stopped, and adds other seeds; under torchrun the processes share the work.

    --from draws from a picture instead of from nothing, with --mask only a part of it; --interpolate and --path write
    an animation instead of a folder.
    """

    network: Annotated[str, tyro.conf.Positional]
    """A snapshot (a .safetensors file from training or reconstruction); the folder of a run, for the best that sweeps,
    searches or evaluations know of it, or else its newest average; a preset that was fetched, with its guide; or a
    repository of the Hugging Face Hub."""

    out: Unset[Path] = None
    """Folder for the images; or a file that ends in .zip, which is written uncompressed with its labels, as official
    tools read it. Default: samples. For --interpolate and --path a file that ends in .gif, .webp or .png (a strip of
    pictures), which is replaced. Default: interpolation.gif, path.gif."""

    seeds: Unset[str] = None
    """Seeds, one image each: 7, a list 1,2,5 or a range with both ends 0-49999. Default: 0-63, or with --per-class as
    many as that needs."""

    per_class: Unset[int] = None
    """Draw so many images of each class of --class, or of all that the network knows; of one that knows none so many
    in all."""

    grid: bool = False
    """Also write grid.png with the first 400 images."""

    columns: Unset[int] = None
    """Columns of the grid. Default: about square."""

    start: FromPicture = field(default_factory=FromPicture)

    interpolate: Unset[str] = None
    """Write an animation of the way from seed to seed through noise, such as 3,7 or, as a loop, 3,7,3; without --class
    through the classes that they draw, too."""

    path: bool = False
    """Write an animation of the way from noise to the images of --seeds: what the sampler has, and beside it what the
    network sees in that."""

    animation: Animation = field(default_factory=Animation)

    device: Device = "auto"
    """Where to sample; kinds of device draw different noise."""

    def run(self) -> None:
        """Write the images."""
        from unitgain.draw.picture import from_picture
        from unitgain.draw.run import write_images
        from unitgain.parallel import processes

        if self.per_class is not None:
            self._check_per_class(self.per_class)
        seeds = self._seeds()
        if self.columns is not None and self.columns < 1:
            raise ValueError(f"--columns {self.columns}: must be at least 1")
        with processes(pick_device(self.device)) as world:
            main, guide, settings = self.networks(self.network, world.device)
            if world.main and main.denoiser.spec.conditions and settings.conditions is None:
                told = ", ".join(one.summary for one in main.denoiser.spec.conditions)
                note(f"drawn without {told}: --conditions DATA, or DATA[0:16], draws for rows of data")
            if self.per_class is not None:
                if world.main and not main.denoiser.spec.label_dim:
                    note(f"the network is unconditional, it knows no classes: {self.per_class} images in all")
                count = self.per_class * (len(settings.label) if isinstance(settings.label, tuple) else 1)
                seeds = parse_seeds(f"0-{count - 1}")
            if self.start.picture is not None:
                settings = from_picture(main.denoiser, self.start, settings)
            if self._moves:
                self._animate(main, guide, settings, seeds, world)
                return
            out = self.out or Path("samples")
            with bar("sampling", "images", quiet=not world.main) as progress:
                count = write_images(
                    main,
                    guide,
                    settings,
                    seeds,
                    out,
                    world=world,
                    batch=self.batch,
                    contact_sheet=self.grid or self.columns is not None,
                    columns=self.columns,
                    on_progress=progress,
                )
            if world.main:
                old = f"; {len(seeds) - count.new} were there" if count.new < len(seeds) else ""
                say(f"{count.new} images drawn{old}; {count.total} in {out}")
                self._go_on(main, out)

    def _check_per_class(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"--per-class {count}: must be at least 1")
        if self.seeds is not None:
            raise ValueError(
                f"--seeds {self.seeds} and --per-class {count} both say how many images: leave one out; the classes of "
                "--class go to the seeds in turn"
            )

    def label(self, known: "Classes") -> tuple[int, ...] | None:
        """As `Drawing.label`; all classes for --per-class alone, if there are any."""
        if self.per_class is None or self.classes is not None:
            return super().label(known)
        return tuple(range(known.count)) if known.count else None

    def _go_on(self, main: "Network", out: Path) -> None:
        """Say where the contact sheet is, or how to get one, and how the images are measured."""
        from unitgain.checkpoint.snapshot import Snapshot
        from unitgain.data.named import DIGITS
        from unitgain.draw.run import sheet_of
        from unitgain.hub import locate

        if not self.grid and self.columns is None:
            given = [] if self.seeds is None else ["--seeds", self.seeds]
            given += [] if self.per_class is None else ["--per-class", str(self.per_class)]
            given += [] if self.classes is None else ["--class", self.classes]
            given += [{"--picture": "--from"}.get(word, word) for word in options_of(self.start, FromPicture())]
            words = ("sample", self.network, *given, "--out", out)
            next_step("look at them together", *words, *self.drawn_by(self.guide, self.guidance), "--grid")
            return
        say(f"look at {sheet_of(out)}")
        with Snapshot(locate(main.name)) as snapshot:
            data = snapshot.header.data
        whole = self.start.picture is None  # other images are not meant to be like the data
        if whole and data and main.encoder.get("kind") == "pixels" and (data == DIGITS or Path(data).exists()):
            next_step("measure them", "metrics", out, "--reference", data)

    @property
    def _moves(self) -> bool:
        return self.path or self.interpolate is not None

    def _seeds(self) -> list[int]:
        """The seeds of the images, or those to pass, in order."""
        if self.path and self.interpolate is not None:
            raise ValueError("--path and --interpolate are two animations: name one of them")
        if not self._moves and self.animation != Animation():
            raise ValueError("--frames and --fps are for animations: name one (--path, --interpolate 3,7)")
        if self._moves and (self.grid or self.columns is not None):
            raise ValueError("--grid and --columns are for a folder of images, not for an animation")
        if self.interpolate is not None and (self.seeds is not None or self.per_class is not None):
            raise ValueError(f"--interpolate {self.interpolate} names its seeds: leave out --seeds and --per-class")
        if self.interpolate is None:
            return parse_seeds(SEEDS if self.seeds is None else self.seeds)
        return [seed for part in self.interpolate.split(",") for seed in parse_seeds(part)]

    def _animate(
        self, main: "Network", guide: "Network | None", settings: DrawSettings, seeds: list[int], world: "World"
    ) -> None:
        """Write the animation, in the first process."""
        from unitgain.draw.animation import write_interpolation, write_path
        from unitgain.draw.networks import guide_by

        if not world.main:
            return
        out = self.out or Path("path.gif" if self.path else "interpolation.gif")
        write = write_path if self.path else write_interpolation
        with bar("sampling", "images") as progress:
            frames = write(
                guide_by(main, guide, settings),
                seeds,
                out,
                settings,
                self.animation,
                batch=self.batch,
                on_images=lambda done: progress(done, None),
            )
        most = "; there are no more noise levels (--steps)" if frames < (self.animation.frames or 0) else ""
        say(f"{frames} frames in {out}{most}")
