"""`unitgain bench`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unitgain.bench import turns
from unitgain.bench.cases import MODES, Case, parse_case
from unitgain.bench.data import ROWS, data
from unitgain.bench.forward import forward
from unitgain.bench.measure import Report
from unitgain.bench.posthoc import posthoc
from unitgain.bench.sampling import sampling
from unitgain.bench.steps import STEPS
from unitgain.bench.tables import cells, notes, rich_table, roofline_cells, slow_cells
from unitgain.bench.trace import check_path
from unitgain.bench.training import training
from unitgain.bench.turns import Pace
from unitgain.cli.arguments import Device, pick_device
from unitgain.cli.drawing import SamplerName
from unitgain.serial import to_dict

NetworkName = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How things are measured, and what is printed."""

    repeats: int | None = None
    """How often each is timed, in turns. Default: as often as fits into --seconds, at least three times."""

    seconds: float = 10.0
    """How long to measure, after warming up."""

    threads: int | None = None
    """Threads of torch. Default: as many as torch takes by itself."""

    profile: Path | None = None
    """Write a trace of one call of each to this .json file, for chrome://tracing or Perfetto, and print the slowest
    operations."""

    json: bool = False
    """Print JSON, which has everything that was measured."""

    @contextmanager
    def watched(self) -> Iterator[turns.Progress]:
        """Threads as asked for, and a progress bar on standard error, where that is a terminal."""
        self.pace()
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads {self.threads}: must be at least 1")
        if self.profile is not None:
            check_path(self.profile)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
                task = progress.add_task("starting", total=None)
                yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
        finally:
            torch.set_num_threads(before)

    def pace(self) -> Pace:
        """As asked for."""
        return Pace(self.repeats, self.seconds)

    def show(self, report: Report, roofline: bool = False) -> None:
        """Print what was measured."""
        if self.json:
            print(json.dumps(to_dict(report), indent=1, default=str))
            return
        console = Console(width=max(Console().width, 150) if not sys.stdout.isatty() else None)
        console.print(rich_table(cells(report)))
        if roofline:
            console.print(rich_table(roofline_cells(report), "\nRoofline"))
        if self.profile is not None:
            console.print(rich_table(slow_cells(report.slow), f"\nSlowest operations; the trace is in {self.profile}"))
        console.print("\n" + "\n".join(notes(report)), highlight=False)


@dataclass(frozen=True, kw_only=True)
class Comparing(Measuring):
    """The same, for networks."""

    compare: tuple[str, ...] = ()
    """Several of NETWORK:MODE, measured in turns with NETWORK, if that is given; ratios are to the first."""

    device: Device = "auto"
    """Where to measure."""

    roofline: bool = False
    """Also print what each computes and moves, how long this machine needs for that at the least, and what it took.
    JSON always has it."""

    def cases(self, network: str | None, known: tuple[str, ...], default: str) -> list[Case]:
        """What to compare; a network alone is compared in the default modes, one among others in the last of them.

        Raises:
            ValueError: if there is nothing to measure, or twice the same.
        """
        if network is None and not self.compare:
            raise ValueError("name what to measure: NETWORK, NETWORK:MODE or --compare NETWORK:MODE NETWORK:MODE ...")
        one = default.split(",")[-1]
        cases = parse_case(network, known, one if self.compare else default) if network is not None else []
        cases += [case for text in self.compare for case in parse_case(text, known, one)]
        names = [case.name for case in cases]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} is named twice: each case once")
        return cases


@dataclass(frozen=True)
class Forward(Comparing):
    """Evaluations of a denoiser.

    Modes: plain (float32, contiguous, weights normalized in every evaluation), exact (the same, channels-last: what
    --exact runs elsewhere), fast (prepared, in the fastest precision here), float32, bfloat16, float16 (prepared).
    plain and exact take +bfloat16 or +float16; the prepared ones +compile or +compile=max-autotune.
    """

    network: NetworkName = None
    """A recipe, whose weights are random then, or a snapshot, a preset or a repository of the Hugging Face Hub; with
    :MODE for one mode alone. Default modes: plain and fast."""

    batch: int = 1
    """Images of an evaluation."""

    reference: Path | None = None
    """A checkout of the official EDM2 code, which is run: its network gets the weights of the first one and is measured
    first."""

    def run(self) -> None:
        """Measure and print."""
        cases = self.cases(self.network, MODES, "plain,fast")
        with self.watched() as progress:
            report = forward(
                cases,
                batch=self.batch,
                device=pick_device(self.device),
                pace=self.pace(),
                reference=self.reference,
                trace=self.profile,
                on_progress=progress,
            )
            self.show(report, self.roofline)


@dataclass(frozen=True)
class Train(Comparing):
    """Training steps on random images.

    Modes: plain (float32, contiguous, everything parameter by parameter), float32, bfloat16, float16 (the step of
    `unitgain train`). All take +microbatch=N, plain +bfloat16 or +float16, the others +recompute.
    """

    network: NetworkName = None
    """A recipe; with :MODE for one mode alone. Default modes: plain and float32, on a GPU bfloat16 too."""

    batch: int | None = None
    """Images of a step. Default: those of the recipe, at most 16."""

    def run(self) -> None:
        """Measure and print."""
        device = pick_device(self.device)
        default = "plain,float32,bfloat16" if device.type == "cuda" else "plain,float32"
        cases = self.cases(self.network, STEPS, default)
        with self.watched() as progress:
            report = training(
                cases,
                batch=self.batch,
                device=device,
                pace=self.pace(),
                trace=self.profile,
                on_progress=progress,
            )
            self.show(report, self.roofline)


@dataclass(frozen=True)
class Sample(Comparing):
    """Whole samplers, and what they cost beyond the evaluations of their networks. Modes as in `bench forward`."""

    network: NetworkName = None
    """As in `bench forward`. Default mode: fast."""

    batch: int | None = None
    """Images, drawn together. Default: as many as the first network evaluates at a time."""

    steps: int = 32
    """Steps of the sampler."""

    sampler: SamplerName = "heun"
    """The sampler."""

    guidance: float = 1.0
    """Weight of guidance; 1 for none."""

    guide: str | None = None
    """Network that guides, in the same mode. Default: the network without its label."""

    def run(self) -> None:
        """Measure and print."""
        if self.guide is not None and self.guidance == 1:
            raise ValueError(f"--guide {self.guide} without --guidance: say how much, as in --guidance 1.5")
        cases = self.cases(self.network, MODES, "fast")
        with self.watched() as progress:
            report = sampling(
                cases,
                batch=self.batch,
                steps=self.steps,
                sampler=self.sampler,
                guide=self.guide,
                guidance=self.guidance,
                device=pick_device(self.device),
                pace=self.pace(),
                trace=self.profile,
                on_progress=progress,
            )
            self.show(report, self.roofline)


@dataclass(frozen=True)
class Posthoc(Measuring):
    """Averages from synthetic snapshots, against reading the same files and converting them to float32."""

    snapshots: int = 16
    """Files."""

    parameters: float = 20e6
    """Parameters of each, stored in float16."""

    lengths: int = 16
    """Averages made in one pass."""

    folder: Path | None = None
    """Where the files go, which are deleted afterwards: 2 bytes per parameter and file. Default: the temporary one."""

    def run(self) -> None:
        """Measure and print."""
        with self.watched() as progress:
            report = posthoc(
                snapshots=self.snapshots,
                parameters=self.parameters,
                lengths=self.lengths,
                folder=self.folder,
                pace=self.pace(),
                trace=self.profile,
                on_progress=progress,
            )
            self.show(report)


@dataclass(frozen=True)
class Data(Measuring):
    """The loader of training data, by threads."""

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Prepared data. Default: synthetic latents, which NumPy reads too, out of a memory map."""

    batch: int = 64
    """Rows of a call."""

    batches: int = 16
    """Calls of a run, which starts and stops the threads."""

    rows: int = ROWS
    """Synthetic latents, 128 KiB each, on the disk twice."""

    workers: tuple[int, ...] = (0, 1)
    """Threads to try."""

    folder: Path | None = None
    """Where the synthetic latents go; they are deleted afterwards. Default: the temporary one."""

    def run(self) -> None:
        """Measure and print."""
        with self.watched() as progress:
            report = data(
                self.data,
                batch=self.batch,
                batches=self.batches,
                rows=self.rows,
                workers=self.workers,
                temporary=self.folder,
                pace=self.pace(),
                trace=self.profile,
                on_progress=progress,
            )
            self.show(report)


@dataclass(frozen=True)
class Bench:
    """Measure how fast networks, training, samplers, averages and data are here.

    Everything is timed in turns in one process; medians, and ratios to the first. The share of the peak is that of the
    rate of matrix products, which is measured in the same process. docs/speed.md explains the figures.
    """

    command: (
        Annotated[Forward, tyro.conf.subcommand("forward")]
        | Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Posthoc, tyro.conf.subcommand("posthoc")]
        | Annotated[Data, tyro.conf.subcommand("data")]
    ) = field()

    def run(self) -> None:
        """Run the subcommand."""
        self.command.run()
