"""`unitgain convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unitgain.cli.arguments import Unset
from unitgain.console import bar, say
from unitgain.train.config import Precision


@dataclass(frozen=True)
class Convert:
    """Make snapshots of official EDM2 files (.pkl), and reference files of their statistics; runs nothing in them.

    FILE.pkl OUT.safetensors converts a network; FOLDER OUT --all a folder of raw snapshots, which `unitgain ema` then
    reads; FILE.pkl or FILE.npz to OUT.npz reference statistics, for `unitgain metrics`. Checkpoints of other projects:
    `unitgain ema convert`.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """An official .pkl file, reference statistics (.pkl or .npz), or with --all a folder of raw snapshots."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """What to write: a .safetensors file, a .npz file, or with --all a folder; what is whole in there is kept."""

    all: bool = False
    """Convert every raw snapshot of a folder."""

    nimg: Unset[int] = None
    """Images seen in training. Default: as the file's name says."""

    sigma_rel: Unset[float] = None
    """Length of the average. Default: as the file's name says."""

    recipe: Unset[str] = None
    """Name of the recipe. Default: the official run, where a name says it."""

    metric: Unset[Literal["fid", "fd_dinov2"]] = None
    """Which of the statistics to convert, where a file has several. Default: all."""

    dtype: Precision | Literal["stored"] = "stored"
    """Precision of the snapshots; stored: as in the files, float16."""

    def run(self) -> None:
        """Write the snapshots or the reference file."""
        from unitgain.checkpoint.convert import convert_network, origin

        dtype = None if self.dtype == "stored" else self.dtype
        if self.all:
            self._folder(dtype)
        elif self.source.is_dir():
            raise ValueError(f"{self.source} is a folder: add --all to convert the raw snapshots in it")
        elif self.out.suffix == ".npz":
            self._reference()
        elif self.out.suffix == ".safetensors":
            of = origin(self.source, nimg=self.nimg, sigma_rel=self.sigma_rel, recipe=self.recipe)
            header = convert_network(self.source, self.out, of, dtype)
            say(f"{self.out}: {header.recipe}, {header.nimg:,} images, sigma_rel {header.sigma_rel:g}")
            if header.license is not None:
                say(f"license of the weights: {header.license}")
        else:
            raise ValueError(f"cannot tell what {self.out} is to be: name a .safetensors file, a .npz file, or --all")

    def _folder(self, dtype: str | None) -> None:
        from unitgain.checkpoint.convert import convert_folder

        if self.nimg is not None or self.sigma_rel is not None:
            raise ValueError("--nimg and --sigma-rel are of one file; with --all the names of the files say them")
        if not self.source.is_dir():
            raise ValueError(f"{self.source} is no folder: leave out --all to convert a file")
        with bar("converting", "snapshots") as progress:
            written = convert_folder(self.source, self.out, recipe=self.recipe, dtype=dtype, on_progress=progress)
        say(f"{len(written)} snapshots in {self.out}; see `unitgain ema list {self.out}`")

    def _reference(self) -> None:
        from unitgain.checkpoint.convert import read_reference
        from unitgain.metrics.reference import official_references, save_references

        found = read_reference(self.source)
        if self.metric is not None:
            if self.metric not in found:
                raise ValueError(f"{self.source} has no statistics for {self.metric}, only for {', '.join(found)}")
            found = {self.metric: found[self.metric]}
        references = official_references(found, self.source.name)
        summaries = {name: reference.summary for name, reference in references.items()}
        save_references(self.out, summaries, self.source.name, fingerprint=None)
        about = " and ".join(f"{name}, {len(summary.mean)} features" for name, summary in summaries.items())
        say(f"{self.out}: {about}; the file does not say of how many images")
