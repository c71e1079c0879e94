"""`unitgain convert`."""

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unitgain.classes import read_names
from unitgain.cli.arguments import Device, Unset, draw_next, names_of, refuse_idle
from unitgain.console import bar, next_step, note, say
from unitgain.files import near
from unitgain.kinds import ZIP, read_head
from unitgain.recipe import Precision


@dataclass(frozen=True)
class Convert:
    """Make snapshots of official EDM2 files (.pkl), and reference files of their statistics; runs nothing in them.

    FILE.pkl OUT.safetensors converts a network; FOLDER OUT --all a folder of raw snapshots, which `unitgain ema` then
    reads; FILE.pkl or FILE.npz to OUT.npz reference statistics, for `unitgain metrics`; training-state-*.pt to a folder
    OUT the run that it is of, which goes on here. The way back: a snapshot to OUT.pt, weights by their official names,
    and a reference to OUT.pkl. Checkpoints of other projects: `unitgain ema convert`.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """An official .pkl file, reference statistics (.pkl or .npz), a training state (.pt), or with --all a folder of raw
    snapshots."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """What to write: a .safetensors, .npz, .pt or .pkl file; the folder of a run for a training state; or with --all a
    folder, in which what is whole is kept."""

    all: bool = False
    """Convert every raw snapshot of a folder."""

    nimg: Unset[int] = None
    """Images seen in training. Default: as the file's name says; else not known."""

    sigma_rel: Unset[float] = None
    """Length of the average. Default: as the file's name says; else not known."""

    recipe: Unset[str] = None
    """Name of the recipe. Default: the official run, where a name says it."""

    class_names: Unset[Path] = None
    """A file with the names of the classes, a line for each, which official files do not have."""

    metric: Unset[Literal["fid", "fd_dinov2"]] = None
    """Which of the statistics to convert, where a file has several. Default: all."""

    dtype: Precision | Literal["stored"] = "stored"
    """Precision of the snapshots; stored: as in the files, float16."""

    data: Unset[str] = None
    """Of a training state: what it was trained on, prepared by `unitgain data`; without it the run has weights and
    averages, but no checkpoint to resume from."""

    batch: Unset[int] = None
    """Of a training state: images per step. Default: the recipe's."""

    lr: Unset[float] = None
    """Of a training state: reference learning rate. Default: the recipe's."""

    microbatch: Unset[int] = None
    """Of a training state: images per forward and backward pass (gradient accumulation); several processes share a
    batch by these passes. Default: one pass of the whole batch."""

    device: Device = "auto"
    """Of a training state: what the run will go on on."""

    def run(self) -> None:
        """Write what the name of the output says."""
        dtype = None if self.dtype == "stored" else self.dtype
        if not self.source.exists():
            raise FileNotFoundError(f"no file at {self.source}{near(self.source)}")
        if self.all:
            self._heed("recipe", "class_names", "dtype", why="with --all the names of the files say what they are")
            self._folder(dtype)
        elif self.source.is_dir():
            raise ValueError(f"{self.source} is a folder: add --all to convert the raw snapshots in it")
        elif self.source.suffix == ".safetensors":
            self._heed(why="a snapshot becomes the weights and settings that it has")
            self._back()
        elif not self.out.suffix and ZIP.fits(read_head(self.source)):
            own = ("recipe", "data", "batch", "lr", "microbatch", "device")
            self._heed(*own, why="a training state says itself what it is of")
            self._training_state()
        elif self.out.suffix == ".npz":
            self._heed("metric", why="this makes reference statistics")
            self._reference()
        elif self.out.suffix == ".pkl" and self.source.suffix == ".npz":
            self._heed("metric", why="this makes reference statistics")
            self._reference_back()
        elif self.out.suffix == ".safetensors":
            self._heed("nimg", "sigma_rel", "recipe", "class_names", "dtype", why=f"{self.out} will be a snapshot")
            self._network(dtype)
        else:
            raise ValueError(
                f"cannot tell what {self.out} is to be: name a .safetensors file, a .npz file, or --all; of a training "
                "state, a folder whose name has no dot"
            )

    def _heed(self, *names: str, why: str) -> None:
        """Refuse options but these; those of training states, where this is none, are said to be theirs."""
        states = ("data", "batch", "lr", "microbatch", "device")
        if "data" not in names:
            refuse_idle(self, states, "of a training state, training-state-*.pt, whose OUT is a folder")
        rest = set(names_of(Convert)) - {"source", "out", "all", *states, *names}
        refuse_idle(self, sorted(rest), f"no use here, for {why}; leave it out")

    def _network(self, dtype: str | None) -> None:
        from unitgain.checkpoint.convert import convert_network
        from unitgain.checkpoint.origin import origin

        of = origin(self.source, nimg=self.nimg, sigma_rel=self.sigma_rel, recipe=self.recipe, classes=self._classes())
        header = convert_network(self.source, self.out, of, dtype)
        images = f"{header.nimg:,} images" if header.nimg else "images seen not known"
        length = "length of the average not known" if of.sigma_rel is None else f"sigma_rel {of.sigma_rel:g}"
        say(f"{self.out}: {header.recipe}, {images}, {length}")
        if not header.nimg or of.sigma_rel is None:
            note("the name does not say all of it: --nimg and --sigma-rel do, where post-hoc EMA or a card needs them")
        if header.license is not None:
            say(f"license of the weights: {header.license}")
        draw_next(self.out, self.out.with_suffix(""))

    def _classes(self) -> tuple[str, ...] | None:
        return None if self.class_names is None else read_names(self.class_names)

    def _training_state(self) -> None:
        from unitgain.data.named import open_data
        from unitgain.parallel import pick_device
        from unitgain.recipes import recipe
        from unitgain.train.config import TrainConfig
        from unitgain.train.official import import_run

        settings = self._settings()
        if settings and self.data is None:
            raise ValueError(f"{_options(settings)}: give --data DATA too, without which no run goes on")
        of_recipe = {name: settings[name] for name in ("batch", "lr") if name in settings}

        def change(config: TrainConfig) -> TrainConfig:
            return replace(config, recipe=config.recipe.replace(**of_recipe), microbatch=self.microbatch)

        run = import_run(
            self.source,
            self.out,
            dataset=None if self.data is None else open_data(self.data),
            recipe=None if self.recipe is None else recipe(self.recipe),
            device=pick_device(self.device).type,
            change=change,
        )
        for line in run.report:
            say(line)
        if run.resumable:
            next_step("go on training", "train", "--out", self.out, "--resume")
        else:
            say("no checkpoint, for that takes the data: convert again with --data DATA to resume this run, or start a")
            raw = shlex.quote(str(run.raw))
            say(f"new one from its weights with: unitgain train --init {raw} --data DATA --out RUN")

    def _settings(self) -> dict[str, Any]:
        """What is given of the options that only a training state has, by name."""
        options = {"data": self.data, "batch": self.batch, "lr": self.lr, "microbatch": self.microbatch}
        return {name: value for name, value in options.items() if value is not None}

    def _back(self) -> None:
        from unitgain.checkpoint.export import WHY_NOT, export_network
        from unitgain.checkpoint.uncertainty import uncertainty_path

        if self.out.suffix == ".pkl":
            raise ValueError(WHY_NOT)
        if self.out.suffix != ".pt":
            raise ValueError(
                f"cannot tell what {self.out} is to be: a snapshot becomes a .pt file for the official code"
            )
        known = export_network(self.source, self.out)
        say(f"{self.out}: weights by their official names and constructor arguments")
        if not known:
            note(f"no {uncertainty_path(self.source).name} is there: u(sigma) is 0, which only training would notice")

    def _reference_back(self) -> None:
        from unitgain.evaluate.references import export_official

        names = export_official(self.source, self.out, self.metric)
        say(f"{self.out}: {' and '.join(names)}, as the official tools read them")

    def _folder(self, dtype: str | None) -> None:
        from unitgain.checkpoint.convert import convert_folder

        if not self.source.is_dir():
            raise ValueError(f"{self.source} is no folder: leave out --all to convert a file")
        kept = Counter[str]()
        with bar("converting", "snapshots") as progress:
            written = convert_folder(
                self.source,
                self.out,
                recipe=self.recipe,
                classes=self._classes(),
                dtype=dtype,
                on_progress=progress,
                on_skip=note,
                on_keep=lambda _, precision: kept.update([precision]),
            )
        for precision, count in kept.items():
            say(f"already there, and kept in {precision}: {count}")
        say(f"{len(written)} snapshots in {self.out}")
        next_step("look at them", "ema", "list", self.out)

    def _reference(self) -> None:
        from unitgain.evaluate.references import import_references

        references = import_references(self.source, self.out, self.metric)
        about = " and ".join(f"{name}, {len(one.summary.mean)} features" for name, one in references.items())
        counts = {reference.count for reference in references.values()}
        known = f"of {' and '.join(f'{count:,}' for count in sorted(filter(None, counts)))} images"
        say(f"{self.out}: {about}; {'the file does not say of how many images' if None in counts else known}")


def _options(settings: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in settings)
