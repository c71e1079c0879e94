"""What a training run is: a recipe, a seed, and how it is carried out."""

import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from unitgain.data.settings import Normalize
from unitgain.given import settle, several
from unitgain.metrics.metric import is_program, split_name
from unitgain.recipe import Precision, Recipe
from unitgain.sample.seeds import check_seeds
from unitgain.serial import UNSAID, differences, to_dict
from unitgain.trust import Limits

OnCheckpointError = Literal["stop", "continue"]
Device = Literal["auto", "cpu", "cuda"]


def restarted() -> bool:
    """Whether torchrun has started the processes anew (`--max-restarts`), which go on with the run that is there."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def parse_duration(text: str) -> float:
    """Seconds from text: `90` (seconds), `45m`, `11.5h`, `2d`, or parts together: `1d6h30m`.

    Raises:
        ValueError: if it is none of these, or not positive.
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1, "": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms]?)", text)
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or seconds <= 0 or (len(parts) > 1 and not all(u for _, u in parts)):
        raise ValueError(f"cannot read the time {text!r}: write 90 (seconds), 45m, 11.5h or 1d6h")
    return seconds


def parse_gigabytes(text: str) -> int:
    """Bytes from a number of GB.

    Raises:
        ValueError: if it is none, or not positive.
    """
    with suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return int(number * 1e9)
    raise ValueError(f"cannot read the size {text!r}: write a number of GB above 0, such as 20 or 0.5")


def _check_least(settings: object, least: Mapping[str, int], where: str = "") -> None:
    """Raise `ValueError` if one of these fields has a number below the least that it may have."""
    for name, number in least.items():
        if (value := getattr(settings, name)) is not None and value < number:
            raise ValueError(f"{where}{name} = {value}: must be at least {number}")


# Fields, and groups of fields, that change nothing of the numbers already computed: a resumed run may have other ones.
FREE = (
    "evaluation",
    "classes",  # the fingerprint of the data tells of other ones
    "workers",
    "cache",
    "recipe.duration",
    "recipe.summary",
    "recipe.scores",
    "tick",
    "magnitudes_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "snapshot_dtype",
    "snapshot_budget",
    "nonfinite_limit",
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is drawn and measured while a run trains. It changes nothing of the run.

    Args:
        samples_every: images between grids of samples, the first step at or after each multiple; 0 for none, None for
            the snapshot interval where `samples` is given, else none.
        samples: images of a grid, of the seeds 0, 1, ...; None for 64.
        metrics: what to measure, as in `unitgain metrics`: fid, fd_dinov2, fd_pixels, kid, ...; one by one, or with
            commas between.
        metrics_every: images between measurements, likewise; None for the snapshot interval where metrics are named.
        metrics_images: images measured each time, of the seeds 0, 1, ...
        reference: file of real images' statistics, for the metrics that need one.
        ema: relative length of the average that draws; None for the recipe's first.
        steps: of Heun's sampler.
        batch: images in flight at a time in each process; does not change them.
        dtype: precision of the network that draws.
        vae: folder or Hub id of the VAE that decodes latents; None for the one that the data name.
        inception: file of Inception's weights; None for those in the cache.
        dinov2: folder or Hub id of DINOv2's weights; None for the published ones.

    Raises:
        ValueError: if a field is out of its range.
    """

    samples_every: int | None = None
    samples: int | None = None
    metrics: tuple[str, ...] = ()
    metrics_every: int | None = None
    metrics_images: int = 5000
    reference: Annotated[str | None, tyro.conf.arg(name="metrics-reference")] = None
    ema: Annotated[float | None, tyro.conf.arg(name="evaluate-ema")] = None
    steps: Annotated[int, tyro.conf.arg(name="evaluate-steps")] = 32
    batch: Annotated[int, tyro.conf.arg(name="evaluate-batch")] = 64
    dtype: Annotated[Precision, tyro.conf.arg(name="evaluate-dtype")] = "float32"
    vae: Annotated[str | None, tyro.conf.arg(name="evaluate-vae")] = None
    inception: str | None = None
    dinov2: str | None = None

    def __post_init__(self) -> None:
        metrics = several(self.metrics, "evaluation.metrics")
        settle(self, metrics=tuple(name for text in metrics for name in text.split(",") if name))
        least = {"samples": 1, "metrics_images": 16, "steps": 2, "batch": 1, "samples_every": 0, "metrics_every": 0}
        _check_least(self, least, "evaluation.")
        for name in self.metrics:
            split_name(name)
        if not self.metrics and self.metrics_every:
            raise ValueError(f"evaluation.metrics_every = {self.metrics_every}: name the metrics (--metrics fid)")

    def programs(self) -> dict[str, str]:
        """What of it runs code that is not this library's, by the option that names it: Python, or TorchScript."""
        own = [name for name in self.metrics if is_program(name)]
        return ({"metrics": ",".join(own)} if own else {}) | ({"inception": self.inception} if self.inception else {})

    def intervals(self, otherwise: int) -> tuple[int, int]:
        """Images between grids, and between measurements; 0 for none.

        Args:
            otherwise: where something is to be drawn or measured, and it is not said how often.
        """
        grids = otherwise if self.samples_every is None and self.samples else self.samples_every or 0
        metrics = otherwise if self.metrics_every is None and self.metrics else self.metrics_every or 0
        return grids, metrics


@dataclass(frozen=True, kw_only=True)
class Init:
    """The snapshot whose weights a run starts from.

    Args:
        name: path, preset or repository of the Hub, as `unitgain.load` takes it.
        sha256: of its contents, as it says itself.
        license: of its weights, if known; snapshots of the run carry it on.
    """

    name: str
    sha256: str
    license: str | None = None


def _word(metavar: str, read: Callable[[str], float], unit: float = 1) -> Any:
    """How a number, or None, is read from a word on the command line."""
    return tyro.constructors.PrimitiveConstructorSpec[float | None](
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: None if words[0] == "None" else read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int | float),
        str_from_instance=lambda value: [str(value if value is None or unit == 1 else value / unit)],
    )


_names = tyro.constructors.PrimitiveConstructorSpec[tuple[str, ...] | None](
    nargs=1,
    metavar="NAMES|all|none",
    instance_from_str=lambda words: (
        None if words[0] == "all" else tuple(filter(None, words[0].split(","))) if words[0] != "none" else ()
    ),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: ["all" if value is None else ",".join(value) or "none"],
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that defines a run; saved in its folder as `config.json`.

    Args:
        recipe: network, loss, optimizer, EMA and duration.
        data: digits, or a folder that `unitgain data prepare` or `encode` made.
        data_fingerprint: of the data; taken from them.
        classes: names of the classes that the network knows; taken from the data; None without.
        normalize: how pixels become what the network sees: "official" maps 0...255 to [-1, 1], unless the data bring
            another way; "measured" gives them mean 0 and standard deviation 0.5. Latents bring their own normalization.
        flip: mirror each image or not by a coin of its own.
        conditions: those of the data, by name, that the network is told beside the class; None for all.
        workers: threads that read data ahead; None for one per core; 0 for none.
        cache: keep decoded data in memory.
        seed: of every random draw of the run.
        microbatch: images per forward and backward pass (gradient accumulation); must divide the batch; None for the
            whole batch at once, or the share of each of several processes.
            Another value sums gradients in other groups and draws other noise, so it is part of what a run is.
        snapshot_dtype: precision of stored averages: "float16" (as in the paper), "bfloat16" or "float32".
        snapshot_budget: bytes that the averages may take, on the command line in GB: old ones are given up so that
            those of other lengths can still be reconstructed well (`unitgain.posthoc.thin`); None to keep all.
        tick: images between lines of statistics; 0 for a quarter of the snapshot interval.
        magnitudes_every: images between measurements of the magnitudes of activations and weights; 0 for none.
        checkpoint_every: images between checkpoints; 0 for the snapshot interval.
        keep_checkpoints: how many of the newest are kept, at least 1.
        keep_every: the first checkpoint at or after every multiple of this many images is kept too; 0 for none.
        nonfinite_limit: the run stops after this many steps in a row with non-finite gradients.
        evaluation: what is drawn and measured on the way.
        init: the snapshot that it starts from; None for random weights.

    Raises:
        ValueError: if a field is out of its range.
    """

    recipe: Recipe
    data: str = "digits"
    data_fingerprint: tyro.conf.Suppress[str] = ""
    classes: tyro.conf.Suppress[tuple[str, ...] | None] = None
    normalize: Normalize = "official"
    flip: bool = False
    conditions: Annotated[tuple[str, ...] | None, _names] = field(default=None, metadata=UNSAID)
    workers: int | None = None
    cache: bool = False
    seed: int = 0
    microbatch: int | None = None
    snapshot_dtype: Precision = "float16"
    snapshot_budget: Annotated[int | None, _word("GB", parse_gigabytes, 1e9)] = None
    tick: int = 0
    magnitudes_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    keep_every: int = 0
    nonfinite_limit: int = 10
    evaluation: Evaluation = field(default_factory=Evaluation)
    init: tyro.conf.Suppress[Init | None] = None

    def __post_init__(self) -> None:
        if self.microbatch is not None and (self.microbatch < 1 or self.recipe.batch % self.microbatch):
            raise ValueError(f"microbatch = {self.microbatch}: must divide the batch of {self.recipe.batch} images")
        for name in ("conditions", "classes"):
            if (values := getattr(self, name)) is not None:
                several(values, name)
        check_seeds([self.seed])
        names = ("workers", "tick", "checkpoint_every", "magnitudes_every", "keep_every")
        _check_least(self, {**dict.fromkeys(names, 0), "keep_checkpoints": 1, "nonfinite_limit": 1})

    @property
    def microbatches(self) -> int:
        """How many microbatches make a batch."""
        return self.recipe.batch // (self.microbatch or self.recipe.batch)

    @property
    def ticks_every(self) -> int:
        """Images between lines of statistics."""
        return self.tick or max(self.recipe.snapshot_every // 4, 1)

    @property
    def checkpoints_every(self) -> int:
        """Images between checkpoints."""
        return self.checkpoint_every or self.recipe.snapshot_every

    def changes(self, saved: "TrainConfig") -> list[str]:
        """What `self` would change in the numbers of a run that began as `saved`, as 'field: old -> new'."""
        rows = differences(to_dict(saved), to_dict(self))
        moved = bool(self.data_fingerprint) and self.data_fingerprint == saved.data_fingerprint
        free = (*FREE, "data") if moved else FREE
        if self.init and saved.init and self.init.sha256 == saved.init.sha256:
            free = (*free, "init")  # found elsewhere
        fields = [(row, row.partition(":")[0]) for row in rows]
        return [row for row, name in fields if name not in free and name.partition(".")[0] not in free]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out, which changes nothing of its numbers but the order of floating-point sums.

    Args:
        device: kind of device, auto for the GPU where there is one; under torchrun each process takes that of its rank.
        shard: cut parameters, gradients, optimizer and averages up among the processes (FSDP2) rather than keep a
            replica on each (DDP).
        recompute: activation checkpointing: forget activations inside blocks and compute them again in the backward
            pass, to save memory.
        compile: compile the blocks of the network, which takes minutes at the start.
        kernels: run depthwise convolutions on Triton kernels (`unitgain.kernels`), which no GPU has run yet.
        normalize_once: normalize weights once for all microbatches of a step, where one process trains; more memory.
        ema_device: where the averages are kept; None for beside the parameters.
        check_memory: refuse to start where a step takes more memory than is free.
        max_time: time after which the run stops as on a signal: in seconds, or as 90m, 11.5h or 1d6h on the command
            line; None for no limit. Leave some minutes of a queue's limit for the last step and checkpoint.
        on_checkpoint_error: what to do when a checkpoint cannot be written.
        quiet: no progress.
        tensorboard: write TensorBoard events, if it is installed.
        wandb: also log to Weights & Biases, in this project; None for not.
        limits: of data that metrics are measured against.
    """

    device: Device = "cpu"
    shard: bool = False
    recompute: bool = False
    compile: bool = False
    kernels: bool = False
    normalize_once: bool = True
    ema_device: str | None = None
    check_memory: bool = True
    max_time: Annotated[float | None, _word("TIME", parse_duration)] = None
    on_checkpoint_error: OnCheckpointError = "stop"
    quiet: bool = False
    tensorboard: bool = True
    wandb: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.max_time is not None and not self.max_time > 0:
            raise ValueError(f"max_time = {self.max_time}: must be a positive number of seconds")
        if self.on_checkpoint_error not in ("stop", "continue"):
            raise ValueError(f'on_checkpoint_error = {self.on_checkpoint_error!r}: must be "stop" or "continue"')
