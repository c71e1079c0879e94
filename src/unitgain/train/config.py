"""What a training run is: a recipe, a seed, and how it is carried out."""

from dataclasses import dataclass
from typing import Literal

import torch

from unitgain.recipe import Recipe
from unitgain.serial import differences, to_dict

Precision = Literal["float32", "bfloat16", "float16"]
Normalize = Literal["official", "measured"]
OnCheckpointError = Literal["stop", "continue"]

# Fields that change nothing of the numbers already computed, so a resumed run may have other ones.
FREE = (
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
    "nonfinite_limit",
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that defines a run; saved in its folder as `config.json`.

    Args:
        recipe: network, loss, optimizer, EMA and duration.
        data: name of the data set, or the folder of prepared data.
        data_fingerprint: of prepared data; empty for others.
        normalize: how pixels become what the network sees: "official" maps 0...255 to [-1, 1]; "measured" gives the
            data mean 0 and standard deviation 0.5. Latents bring their own normalization.
        flip: mirror each image or not by a coin of its own.
        workers: threads that read data ahead; None for one per core; 0 for none.
        cache: keep decoded data in memory.
        seed: of every random draw of the run.
        microbatch: images per forward and backward pass; must divide the batch; None for the whole batch at once.
            Another value sums gradients in other groups and draws other noise, so it is part of what a run is.
        dtype: precision of the network: "float32", "bfloat16" or "float16"; the embedding stays in float32.
        snapshot_dtype: precision of stored averages: "float16" (as in the paper), "bfloat16" or "float32".
        tick: images between lines of statistics.
        magnitudes_every: images between measurements of the magnitudes of activations and weights; 0 for none.
        checkpoint_every: images between checkpoints.
        keep_checkpoints: how many of the newest are kept, at least 1.
        keep_every: the first checkpoint at or after every multiple of this many images is kept too; 0 for none.
        nonfinite_limit: the run stops after this many steps in a row with non-finite gradients.

    Raises:
        ValueError: if a field is out of its range.
    """

    recipe: Recipe
    data: str
    data_fingerprint: str = ""
    normalize: Normalize = "official"
    flip: bool = False
    workers: int | None = None
    cache: bool = False
    seed: int = 0
    microbatch: int | None = None
    dtype: Precision = "float32"
    snapshot_dtype: Precision = "float16"
    tick: int
    magnitudes_every: int = 0
    checkpoint_every: int
    keep_checkpoints: int = 2
    keep_every: int = 0
    nonfinite_limit: int = 10

    def __post_init__(self) -> None:
        if self.microbatch is not None and (self.microbatch < 1 or self.recipe.batch % self.microbatch):
            raise ValueError(f"microbatch = {self.microbatch}: must divide the batch of {self.recipe.batch} images")
        for name in ("tick", "checkpoint_every", "keep_checkpoints", "nonfinite_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")

        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers = {self.workers}: must not be negative")
        for name in ("magnitudes_every", "keep_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")

    @property
    def microbatches(self) -> int:
        """How many microbatches make a batch."""
        return self.recipe.batch // (self.microbatch or self.recipe.batch)

    def changes(self, saved: "TrainConfig") -> list[str]:
        """What `self` would change in the numbers of a run that began as `saved`, as 'field: old -> new'."""
        rows = differences(to_dict(saved), to_dict(self))
        moved = bool(self.data_fingerprint) and self.data_fingerprint == saved.data_fingerprint
        free = (*FREE, "data") if moved else FREE
        return [row for row in rows if row.partition(":")[0] not in free]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out, which changes nothing of its numbers but the order of floating-point sums.

    Args:
        device: kind of device; under torchrun each process takes the one of its local rank.
        shard: cut parameters, gradients, optimizer and averages up among the processes (FSDP2) rather than keep a
            replica on each (DDP).
        recompute: forget activations inside blocks and compute them again in the backward pass, to save memory.
        compile: compile the blocks of the network, which takes minutes at the start.
        normalize_once: normalize weights once for all microbatches of a step, where one process trains; more memory.
        ema_device: where the averages are kept; None for beside the parameters.
        max_time: seconds after which the run stops as on a signal; None for no limit.
        on_checkpoint_error: what to do when a checkpoint cannot be written.
        quiet: no progress.
        tensorboard: write TensorBoard events, if it is installed.
    """

    device: torch.device | str = "cpu"
    shard: bool = False
    recompute: bool = False
    compile: bool = False
    normalize_once: bool = True
    ema_device: str | None = None
    max_time: float | None = None
    on_checkpoint_error: OnCheckpointError = "stop"
    quiet: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if self.max_time is not None and not self.max_time > 0:
            raise ValueError(f"max_time = {self.max_time}: must be a positive number of seconds")
        if self.on_checkpoint_error not in ("stop", "continue"):
            raise ValueError(f'on_checkpoint_error = {self.on_checkpoint_error!r}: must be "stop" or "continue"')
