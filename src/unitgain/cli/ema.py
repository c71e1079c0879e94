"""`unitgain ema`."""

from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from unitgain.cli.arguments import Unset, draw_next
from unitgain.console import Console, bar, byte_bar, next_step, say, show_json
from unitgain.files import require_empty
from unitgain.recipe import Precision
from unitgain.text import evenly, one_line

if TYPE_CHECKING:
    from unitgain.checkpoint.snapshot import Snapshot


@dataclass(frozen=True)
class OfRun:
    """A command about what a run has stored."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of snapshots."""


@dataclass(frozen=True)
class List(OfRun):
    """List the averages that a run has stored."""

    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        """Print one row per snapshot."""
        from unitgain.checkpoint.snapshot import list_snapshots
        from unitgain.ema import length_text

        averages = list_snapshots(self.run_folder)
        if self.json:
            show_json([_row(average) for average in averages])
            return
        table = Table("file", "t", "profile", "length", "tensors", "MB", box=None)
        for average in averages:
            row = _row(average)
            length = row["profile"].get("sigma_rel", row["profile"].get("half_life", ""))
            time = f"{average.t:,.0f}" if average.t.is_integer() else f"{average.t:,g}"
            shown = length_text(length) if "sigma_rel" in row["profile"] else f"{length:g}" if length else ""
            name = average.path.name if len(average.paths) == 1 else f"{average.path.name} (+{len(average.paths) - 1})"
            size = f"{average.nbytes / 1e6:,.1f}"
            table.add_row(one_line(name), time, average.kind, shown, str(len(average.entries)), size)
        Console().print(table)
        if any(average.kind != "unknown" for average in averages):
            next_step("see which lengths can be reconstructed", "ema", "error", self.run_folder)


@dataclass(frozen=True)
class Reconstruct(OfRun):
    """Reconstruct averages of any length from those that a run has stored (post-hoc EMA)."""

    lengths: Annotated[str, tyro.conf.Positional]
    """Lengths sigma_rel in (0, 0.2886): 0.05, a list 0.05,0.1 or a range with both ends 0.01:0.25:0.01. A part may
    begin with gamma= or half_life= for a length given so."""

    out: Unset[Path] = None
    """Folder for the results; others may be there already, to which these are added. Default: RUN/ema."""

    t: Annotated[Unset[float], tyro.conf.arg(aliases=["--nimg"])] = None
    """Where the averages end, in the run's unit of time, such as images seen. Default: at the last snapshot."""

    override: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Another length for tensors by name or pattern, as 'dec.*=0.05'; may be given again; the last match counts."""

    dtype: Precision | Literal["stored"] = "float16"
    """Precision of the results; stored: as in the snapshots."""

    shard_gb: Unset[float] = None
    """Largest size of a file in GB. Default: one file per result."""

    threads: int = 0
    """Threads; 0 for one per processor."""

    no_verify: bool = False
    """Do not check the checksums of what is read."""

    no_normalize: bool = False
    """Do not divide the weights of the snapshots by their sum."""

    def run(self) -> None:
        """Write one snapshot per length."""
        from unitgain.checkpoint.snapshot import Snapshot, SnapshotError
        from unitgain.posthoc.reconstruct import reconstruct
        from unitgain.posthoc.targets import Target, parse_overrides, parse_targets

        if self.shard_gb is not None and not 0 < self.shard_gb < inf:
            raise ValueError(f"--shard-gb {self.shard_gb:g}: the largest size of a file must be positive, and finite")
        overrides = parse_overrides(self.override)
        lengths = parse_targets(self.lengths)
        targets = [
            Target(sigma_rel=one.sigma_rel, gamma=one.gamma, half_life=one.half_life, overrides=overrides)
            for one in lengths
        ]
        out = self.out or self.run_folder / "ema"
        with byte_bar("reconstructing") as progress:
            results = reconstruct(
                self.run_folder,
                targets,
                out,
                t=self.t,
                dtype=None if self.dtype == "stored" else self.dtype,
                shard_bytes=None if self.shard_gb is None else int(self.shard_gb * 1e9),
                normalize=not self.no_normalize,
                verify=not self.no_verify,
                threads=self.threads,
                add=True,
                on_progress=progress,
            )
        for result in results:
            say(f"{result.path}  (relative error of its profile: {result.error:.1e})")
        first = results[0].path
        with suppress(SnapshotError), Snapshot(first) as snapshot:
            _ = snapshot.header  # which only those of denoisers have
            draw_next(first, first.with_suffix(""), aim="draw with the first")


@dataclass(frozen=True)
class Plot(OfRun):
    """Plot the averaging profiles: stored, wanted, achieved, and their difference (EDM2, Fig. 4)."""

    lengths: Annotated[str, tyro.conf.Positional]
    """Lengths, as for `reconstruct`; a few at most."""

    out: Unset[Path] = None
    """The picture: .svg, .png or .pdf. Default: RUN/profiles.svg."""

    t: Unset[float] = None
    """Where the averages end. Default: at the last snapshot."""

    def run(self) -> None:
        """Write the picture."""
        from unitgain.figures import check_picture
        from unitgain.posthoc.planning import UNREACHABLE, plan
        from unitgain.posthoc.plot import plot_profiles
        from unitgain.posthoc.targets import parse_targets

        out = self.out or self.run_folder / "profiles.svg"
        check_picture(out)
        planned = plan(self.run_folder, parse_targets(self.lengths), t=self.t, max_error=float("inf"))
        plot_profiles(planned.weights, planned.profiles, out)
        say(out)
        words = [] if self.t is None else ["--t", str(self.t)]
        if max(map(planned.error, planned.targets)) > UNREACHABLE:
            next_step("see which lengths can be reconstructed", "ema", "error", self.run_folder, *words)
        else:
            next_step("make them", "ema", "reconstruct", self.run_folder, self.lengths, *words)


@dataclass(frozen=True)
class Responses:
    """Draw how averages of some lengths weigh the past, without a run (EDM2, Fig. 24)."""

    lengths: Annotated[str, tyro.conf.Positional] = "0.05:0.25:0.05"
    """Lengths sigma_rel: one, a list or a range, as for `reconstruct`."""

    out: Path = Path("responses.svg")
    """The picture: .svg, .png or .pdf."""

    def run(self) -> None:
        """Write the picture."""
        from unitgain.posthoc.plot import plot_responses
        from unitgain.posthoc.targets import parse_lengths

        plot_responses(parse_lengths(self.lengths), self.out)
        say(self.out)


@dataclass(frozen=True)
class Error(OfRun):
    """Tell how well averages of a range of lengths can be reconstructed from what a run has stored."""

    lengths: Annotated[str, tyro.conf.Positional] = "0.01:0.28:0.01"
    """Lengths sigma_rel: one, a list or a range, as for `reconstruct`."""

    t: Unset[float] = None
    """Where the averages end. Default: at the last snapshot."""

    plot: Unset[Path] = None
    """Also write a picture: .svg, .png or .pdf."""

    json: bool = False
    """Print JSON."""

    def run(self) -> None:
        """Print one row per length."""
        from unitgain.checkpoint.snapshot import list_snapshots
        from unitgain.figures import check_picture
        from unitgain.posthoc.planning import fit_errors, usable
        from unitgain.posthoc.plot import plot_errors
        from unitgain.posthoc.solve import WARN_ABOVE
        from unitgain.posthoc.targets import parse_lengths

        if self.plot is not None:
            check_picture(self.plot)
        lengths = parse_lengths(self.lengths)
        error = fit_errors(self.run_folder, lengths, t=self.t)
        if self.plot is not None:
            averages, _ = usable(list_snapshots(self.run_folder), self.run_folder)
            times = len({average.t for average in averages})
            plot_errors(lengths, {f"{len(averages)} averages at {times} times": error}, self.plot)
        if self.json:
            show_json([{"sigma_rel": s, "error": e} for s, e in zip(lengths, error, strict=True)])
            return
        table = Table("sigma_rel", "relative error", "", box=None)
        for length, value in zip(lengths, error, strict=True):
            table.add_row(f"{length:g}", f"{value:.1e}", "poor" if value > WARN_ABOVE else "")
        Console().print(table)
        if self.plot is not None:
            say(f"wrote {self.plot}")
        good = [f"{length:g}" for length, value in zip(lengths, error, strict=True) if value <= WARN_ABOVE]
        if good:
            some, at = ",".join(evenly(good, 3)), [] if self.t is None else ["--t", self.t]
            next_step("make some that are good", "ema", "reconstruct", self.run_folder, some, *at)


@dataclass(frozen=True)
class Convert:
    """Make snapshots of checkpoints of another project: safetensors or torch.save files, or folders of them."""

    checkpoints: Annotated[Path, tyro.conf.Positional]
    """Folder of checkpoints, one file or folder per time."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the snapshots; must be empty."""

    pattern: Unset[str] = None
    r"""Regular expression of the time in paths below CHECKPOINTS, as 'checkpoint-(\d+)/unet_ema/': its first group
    counts, where it matches last; what does not match is left out. Default: a number after step, checkpoint or epoch,
    or the last whole number."""

    table: Unset[Path] = None
    """CSV file with the columns file and t, instead of times in names."""

    averaged: Unset[str] = None
    """How the weights were averaged in training: sigma_rel=0.1, gamma=6.94 or half_life=5000. Default: not at all."""

    key: str = ""
    """Where in nested checkpoints the weights are, as 'ema' or 'state.ema'. Default: where they are found."""

    prefix: str = ""
    """Take only tensors whose names begin so, and leave it off, as 'ema_model.'."""

    strip: str = ""
    """Leave this off the front of names."""

    dtype: Precision | Literal["stored"] = "stored"
    """Precision of the snapshots; stored: as in the checkpoints."""

    def run(self) -> None:
        """Write one snapshot per checkpoint."""
        from unitgain.posthoc.convert import convert, find_sources
        from unitgain.posthoc.targets import parse_targets

        lengths = [] if self.averaged is None else parse_targets(self.averaged)
        if len(lengths) > 1:
            raise ValueError(f"--averaged {self.averaged}: the weights have one length")
        skipped: list[str] = []
        sources = find_sources(self.checkpoints, self.pattern, self.table, skipped.append)
        require_empty(self.out)
        for source in sources:
            say(f"t = {source.t:g}: {source.path.relative_to(self.checkpoints)}")
        if skipped:
            why = "for no time is in their names" if self.pattern is None else "for --pattern does not match them"
            say(f"left out, {why}: {', '.join(map(one_line, skipped))}")
        dtype = None if self.dtype == "stored" else self.dtype
        with bar("converting", "checkpoints") as progress:
            written = convert(
                sources,
                self.out,
                averaged=lengths[0] if lengths else None,
                dtype=dtype,
                key=self.key,
                prefix=self.prefix,
                strip=self.strip,
                on_progress=progress,
            )
        say(f"{len(written)} snapshots in {self.out}, t = {sources[0].t:g} to {sources[-1].t:g}")
        next_step("see which lengths can be reconstructed", "ema", "error", self.out)


def _row(average: "Snapshot") -> dict:
    time = int(average.t) if average.t.is_integer() else average.t
    return {
        "path": str(average.path),
        "t": time,
        "nimg": time,
        "profile": average.described,
        "shards": len(average.paths),
        "tensors": len(average.entries),
        "bytes": average.nbytes,
    }
