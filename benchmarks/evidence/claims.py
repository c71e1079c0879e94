"""What is run for which claim: recipes scaled down, and one list of jobs, the most important first."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unitgain.denoiser import Denoiser
from unitgain.draw.settings import DrawSettings
from unitgain.recipe import Recipe
from unitgain.recipes import recipe

PAPER_IMAGES = 2**31  # of EDM2's configs
PAPER_WIDTH = 192
PAPER_T_REF = 70_000 * 2048  # in images
EDM2 = tuple(f"edm2-img512-config-{config}" for config in "abcdefg")
PLUS = tuple(
    f"edm2plus-img64-config-{config}"
    for config in (
        "a",
        "g-bottleneck",
        "g-bottleneck-ms",
        "b",
        "c",
        "d",
        "d-e4",
        "e",
        "e-k7",
        "f",
        "g",
        "f-bottleneck",
        "f-bottleneck-ms",
    )
)
B, G = EDM2[1], EDM2[-1]
RATES = {**dict.fromkeys(EDM2[:3], (0.001, 0.0005, 0.002, 0.004)), **dict.fromkeys(EDM2[3:], (0.01, 0.005, 0.02, 0.04))}
SEEDS = (0, 1)
FIRST_METRIC = "fd@effnet"
TENSOR_LENGTHS = (0.02, 0.06, 0.13, 0.24)
TRACKED = (0.03, 0.13, 0.20)
TENSORS = 8
SAMPLING = DrawSettings(steps=12, sigma_min=0.01, sigma_max=40.0)
PICTURE_SAMPLING = DrawSettings(dtype="bfloat16")


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        width: base channels that stand for the papers' 192.
        images: of a whole run, for the papers' 2^31.
        batch: images per step.
        sweep: images drawn per EMA length.
        score: images drawn for a score.
        lengths: of a sweep.
        weights: of guidance.
        sampling: how images are drawn.
        data: set of the claims.
        pictures: sets that pictures are made of.
        picture_width: base channels of their networks.
        picture_images: of their runs.
        measured: images drawn to choose the EMA length of pictures.
        picture_sampling: how pictures are drawn.
    """

    width: int = 16
    images: int = 2**20
    batch: int = 128
    sweep: int = 2000
    score: int = 10_000
    lengths: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.10, 0.13, 0.16, 0.20, 0.24)
    weights: tuple[float, ...] = (1.25, 1.5, 2.0, 3.0)
    sampling: DrawSettings = SAMPLING
    data: str = "fashion16"
    pictures: tuple[str, ...] = ("fashion32", "emoji32")
    picture_width: int = 32
    picture_images: int = 2**21
    measured: int = 1000
    picture_sampling: DrawSettings = PICTURE_SAMPLING

    @property
    def factor(self) -> float:
        """By which what the papers count in images is divided."""
        return PAPER_IMAGES / self.images


@dataclass(frozen=True)
class Run:
    """A training run, to be trained up to any number of images."""

    name: str
    recipe: Recipe
    data: str
    seed: int = 0
    dtype: str = "float32"
    snapshot_dtype: str = "float16"
    magnitudes_every: int = 0


@dataclass(frozen=True)
class Train:
    """Train a run up to so many images."""

    run: Run
    nimg: int

    @property
    def key(self) -> str:
        """Name of the result."""
        return f"train {self.run.name} {self.nimg}"


@dataclass(frozen=True)
class Cell:
    """Draw and measure images of one average, guided or not."""

    run: Run
    nimg: int
    length: float
    images: int
    first_seed: int = 0
    guidance: float = 1.0
    guide: Run | None = None
    guide_nimg: int = 0
    guide_length: float = 0.0
    pattern: str = ""
    pattern_length: float = 0.0

    @property
    def key(self) -> str:
        """Name of the result."""
        guide = (
            f" guide {self.guide.name} {self.guide_nimg} {self.guide_length:g} {self.guidance:g}" if self.guide else ""
        )
        pattern = f" {self.pattern} {self.pattern_length:g}" if self.pattern else ""
        kind = "score" if self.first_seed else "cell"
        return f"{kind} {self.run.name} {self.nimg} {self.length:g}{guide}{pattern} x{self.images}"


@dataclass(frozen=True)
class Compare:
    """Compare a reconstructed average with the one that another run with the same weights tracked."""

    run: Run
    tracked: Run
    nimg: int
    length: float
    images: int

    @property
    def key(self) -> str:
        """Name of the result."""
        return f"compare {self.run.name} {self.nimg} {self.length:g}"


@dataclass(frozen=True)
class Picture:
    """Draw a picture of samples, a row for each class."""

    run: Run
    nimg: int
    length: float

    @property
    def key(self) -> str:
        """Name of the result."""
        return f"picture {self.run.name} {self.nimg}"


Job = Train | Cell | Compare | Picture
Results = Mapping[str, Mapping[str, Any]]  # by key


def config_run(
    name: str, lr: float, seed: int, scale: Scale, *, width: float = 1, label: str = "", **changes: Any
) -> Run:
    """A config of the papers at this scale.

    Args:
        name: of its recipe.
        lr: reference learning rate.
        seed: of the run.
        scale: of everything.
        width: times that of the scale.
        label: added to the name.
        changes: of the recipe; `label_dim` of its network.
    """
    paper = recipe(name)
    base = int(scale.width * width)
    network = paper.network.replace(
        resolution=16,
        channels=1,
        label_dim=changes.pop("label_dim", 10),
        model_channels=base * paper.network.model_channels // PAPER_WIDTH,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(16, 8) if 32 in paper.network.attn_resolutions else (8,),
        channels_per_head=min(base, 16),
    )
    settings: dict[str, Any] = {
        "lr": lr,
        "t_ref": PAPER_T_REF / scale.factor / scale.batch if paper.t_ref else 0,
        "ema": Recipe.ema,
        "ema_half_life": round(paper.ema_half_life / scale.factor),
        "snapshot_every": max(round(paper.snapshot_every / scale.factor), scale.batch),
    }
    scaled = paper.replace(
        network=network,
        latents=False,
        batch=scale.batch,
        duration=scale.images,
        rampup=round(paper.rampup / scale.factor),
        scores=(),
        **{**settings, **changes},
    )
    return Run(f"{name}{label}-lr{lr:g}-seed{seed}", scaled, scale.data, seed, magnitudes_every=scale.images // 64)


def picture_run(data: str, scale: Scale) -> Run:
    """A network for pictures: config G, three levels."""
    paper = recipe("edm2-img512-config-g")
    network = paper.network.replace(
        resolution=32,
        channels=3 if data.startswith("emoji") else 1,
        label_dim=9 if data.startswith("emoji") else 10,
        model_channels=scale.picture_width,
        channel_mult=(1, 2, 2),
        num_blocks=1,
        attn_resolutions=(8,),
        channels_per_head=min(scale.picture_width, 32),
    )
    scaled = paper.replace(
        network=network,
        latents=False,
        batch=scale.batch,
        duration=scale.picture_images,
        t_ref=scale.picture_images / 15 / scale.batch,
        rampup=scale.picture_images // 200,
        snapshot_every=scale.picture_images // 64,
        scores=(),
    )
    return Run(f"pictures-{data}", scaled, data, dtype="bfloat16")


def best(results: Results, cells: Sequence[Cell], metric: str = FIRST_METRIC) -> Cell | None:
    """The cell with the lowest value; None as long as one is missing, and where all failed."""
    if not cells or any(cell.key not in results for cell in cells):
        return None
    there = [cell for cell in cells if "values" in results[cell.key]]
    return min(there, key=lambda cell: results[cell.key]["values"][metric], default=None)


def sweep(run: Run, nimg: int, scale: Scale, **guided: Any) -> list[Cell]:
    """A cell per length; a guide has the length of the main network where it is given none."""
    tied = guided.get("guide") is not None and "guide_length" not in guided
    return [
        Cell(run, nimg, length, scale.sweep, **guided, **({"guide_length": length} if tied else {}))
        for length in scale.lengths
    ]


def score(cell: Cell | None, scale: Scale) -> list[Cell]:
    """More images of a cell, of other seeds; none as long as there is no cell."""
    return [] if cell is None else [dataclasses.replace(cell, images=scale.score, first_seed=1_000_000)]


def measured(run: Run, nimg: int, scale: Scale, results: Results) -> list[Job]:
    """Train a run, sweep its lengths, and score the best."""
    cells = sweep(run, nimg, scale)
    return [Train(run, nimg), *cells, *score(best(results, cells), scale)]


def rate_of(name: str, scale: Scale, results: Results) -> float | None:
    """The rate whose best cell is lowest at an eighth of the images, seed 0; None as long as it is not known."""
    cells = [cell for lr in RATES[name] for cell in sweep(config_run(name, lr, 0, scale), scale.images // 8, scale)]
    chosen = best(results, cells)
    return None if chosen is None else chosen.run.recipe.lr


def main_runs(name: str, scale: Scale, results: Results) -> list[Run]:
    """The runs of a config at its rate, one per seed; none as long as it is not known. Those of EDM2+ have G's rate."""
    lr = rate_of(name if name in RATES else G, scale, results)
    return [] if lr is None else [config_run(name, lr, seed, scale) for seed in SEEDS]


def guides(lr: float, seed: int, scale: Scale) -> dict[str, tuple[Run, int]]:
    """What may guide, and after how many images: unconditional networks by their width, and a worse version."""
    wide = {"unconditional, half": 0.5, "unconditional": 1, "unconditional, twice": 2}
    found = {
        name: (config_run(G, lr, seed, scale, width=width, label=f"-uncond{width:g}", label_dim=0), scale.images // 2)
        for name, width in wide.items()
    }
    found["autoguidance"] = (config_run(G, lr, seed, scale, width=0.5, label="-half"), scale.images // 8)
    return found


def rate_runs(scale: Scale) -> dict[str, list[list[Run]]]:
    """Runs of G by what is varied, from low to high, of each setting one per seed."""
    middle = RATES[G][0]
    t_ref = PAPER_T_REF / scale.factor / scale.batch
    factors = {0.5: "-tref0.5", 1.0: "", 2.0: "-tref2"}
    return {
        "lr": [[config_run(G, lr, seed, scale) for seed in SEEDS] for lr in sorted(RATES[G])],
        "t_ref": [
            [config_run(G, middle, seed, scale, label=label, t_ref=t_ref * factor) for seed in SEEDS]
            for factor, label in factors.items()
        ],
    }


@functools.cache
def some_tensors(run: Run) -> tuple[str, ...]:
    """Names of weights of all depths, evenly chosen."""
    with torch.device("meta"):
        names = [name for name, weight in Denoiser(run.recipe.network).named_parameters() if weight.ndim >= 2]
    return tuple(names[round(i * (len(names) - 1) / (TENSORS - 1))] for i in range(TENSORS))


def tensor_cells(run: Run, scale: Scale, results: Results) -> list[Cell]:
    """One tensor at a time at each of some lengths, the others at the best; none as long as that is not known."""
    base = best(results, sweep(run, scale.images, scale))
    if base is None:
        return []
    return [
        dataclasses.replace(base, pattern=name, pattern_length=length)
        for name in some_tensors(run)
        for length in TENSOR_LENGTHS
    ]


def tracked_run(scale: Scale) -> tuple[Run, Run]:
    """A run, and the same once more with other lengths tracked."""
    run = config_run(G, RATES[G][0], 0, scale)
    again = run.recipe.replace(ema=TRACKED, snapshot_every=scale.images // 8)
    return run, dataclasses.replace(run, name=f"{run.name}-tracked", recipe=again, snapshot_dtype="float32")


def picture_jobs(scale: Scale, results: Results, share: int) -> Iterator[Job]:
    """Train the picture networks for a share of their images, choose a length, and draw."""
    for data in scale.pictures:
        run, nimg = picture_run(data, scale), scale.picture_images // share
        cells = [Cell(run, nimg, length, scale.measured) for length in (0.05, 0.10, 0.15)]
        yield Train(run, nimg)
        yield from cells
        chosen = best(results, cells)
        if chosen is not None:
            yield Picture(run, nimg, chosen.length)


def guided_jobs(scale: Scale, results: Results, names: Sequence[str]) -> Iterator[Job]:
    """Sweep lengths and weights of G with each guide, and score the best; the guide's own length for the first."""
    for main in main_runs(G, scale, results):
        for name in names:
            guide, nimg = guides(main.recipe.lr, main.seed, scale)[name]
            yield Train(guide, nimg)
            cells = guided_cells(main, guide, nimg, scale)
            yield from cells
            chosen = best(results, cells)
            if chosen is not None and name == names[0]:
                yield from free_cells(chosen, scale)
            yield from score(chosen, scale)


def guided_cells(main: Run, guide: Run, nimg: int, scale: Scale) -> list[Cell]:
    """All lengths and weights, the guide at the length of the main network."""
    return [
        cell
        for weight in scale.weights
        for cell in sweep(main, scale.images, scale, guidance=weight, guide=guide, guide_nimg=nimg)
    ]


def free_cells(chosen: Cell, scale: Scale) -> list[Cell]:
    """The guide at other lengths than that of the main network."""
    return [dataclasses.replace(chosen, guide_length=length) for length in scale.lengths if length != chosen.length]


def stages(scale: Scale, results: Results) -> Iterator[tuple[tuple[str, ...], Iterator[Job]]]:
    """Jobs in the order of their importance, with the claims that need them."""
    eighth, every = scale.images // 8, itertools.chain.from_iterable
    of_configs = ("configs", "magnitudes", "optimum")
    rated = (*of_configs, "time", "rate", "tensors", "half", "order", "guidance", "guides")
    first = [config_run(name, RATES[name][0], 0, scale) for name in (G, *EDM2)]
    yield rated, every(measured(run, eighth, scale, results) for run in first)
    yield ("pictures",), picture_jobs(scale, results, 16)
    grid = [config_run(name, lr, 0, scale) for name in (G, B, *EDM2) for lr in RATES[name][1:]]
    yield rated, every([Train(run, eighth), *sweep(run, eighth, scale)] for run in grid)
    for seed in SEEDS:
        long = [run for name in EDM2 for run in main_runs(name, scale, results) if run.seed == seed]
        yield of_configs, every(measured(run, scale.images, scale, results) for run in long)
    yield ("pictures",), picture_jobs(scale, results, 4)
    times = [(run, scale.images // part) for run in main_runs(G, scale, results) for part in (8, 4, 2, 1)]
    yield ("time",), every([Train(run, nimg), *sweep(run, nimg, scale)] for run, nimg in times)
    half = [run for name in PLUS for run in main_runs(name, scale, results)]
    yield ("half", "order"), every(measured(run, scale.images // 2, scale, results) for run in half)
    rates = [run for settings in rate_runs(scale).values() for runs in settings for run in runs]
    yield ("rate",), every([Train(run, eighth), *sweep(run, eighth, scale)] for run in rates)
    yield ("guidance", "guides"), guided_jobs(scale, results, ["unconditional, half"])
    yield ("guidance",), guided_jobs(scale, results, ["autoguidance"])
    yield ("guides",), guided_jobs(scale, results, ["unconditional", "unconditional, twice"])
    both = [run for name in (B, G) for run in main_runs(name, scale, results)]
    yield ("tensors",), every(tensor_cells(run, scale, results) for run in both)
    yield ("posthoc",), iter(posthoc_jobs(scale))
    yield ("pictures",), picture_jobs(scale, results, 1)


def posthoc_jobs(scale: Scale) -> list[Job]:
    """A run, the same with other averages tracked, and their comparison."""
    run, tracked = tracked_run(scale)
    nimg = scale.images // 8
    both: list[Job] = [Train(run, nimg), Train(tracked, nimg)]
    return [*both, *(Compare(run, tracked, nimg, length, scale.sweep) for length in TRACKED)]


CLAIMS = (
    "configs",
    "half",
    "order",
    "magnitudes",
    "optimum",
    "time",
    "rate",
    "tensors",
    "guidance",
    "guides",
    "posthoc",
    "pictures",
)


def jobs(scale: Scale, results: Results, only: str | None = None) -> Iterator[Job]:
    """All jobs that are known so far, each once; what follows from results is there when they are.

    Args:
        scale: of everything.
        results: what is there, by key.
        only: a claim, for the jobs that it needs.
    """
    seen = set()
    for needed_by, stage in stages(scale, results):
        for job in stage if only is None or only in needed_by else ():
            if job.key not in seen:
                seen.add(job.key)
                yield job
