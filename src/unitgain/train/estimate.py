"""How much memory a run will take on each device, before it is started.

State is counted from the shapes of the parameters, a forward and backward pass is run on tensors without numbers (both
in `unitgain.analysis.memory`), and the process itself is measured by training next to nothing in a fresh one.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from unitgain.analysis.memory import Shapes, copy_bytes, gathered_bytes, peak_bytes, shapes_of
from unitgain.arch.values import placeholder
from unitgain.checkpoint.snapshot import DTYPES
from unitgain.denoiser import Denoiser, make_uncertainty
from unitgain.layers import normalized_once
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.train.blocks import blocks, recompute_blocks
from unitgain.train.config import Execution
from unitgain.train.passes import fuse_passes
from unitgain.train.state import Objective

# What the allocator of the C library (glibc) keeps of what a step has freed, as a part of the pass: chunks below 32 MiB
# do not go back to the system, and those of one size do not fill the gaps of another. Measured: benchmarks/memory.py.
KEPT, KEPT_RECOMPUTING = 0.4, 1.7


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device, the one that has most; where that is the CPU, of the whole process.

    Attributes:
        weights: of the network and u(sigma).
        gradients: likewise.
        optimizer: two moments of Adam.
        averages: all of them; 0 if they are kept elsewhere.
        gathered: FSDP2's whole blocks while they run.
        activations: what a forward and backward pass adds at its peak: what is kept for the backward pass, temporary
            tensors, and gradients on their way.
        kept: by the C library's allocator, on the CPU.
        process: Python, torch and its libraries, on the CPU.
        host: on the CPU, where the device is another: averages and their staging, and the copy of a checkpoint. On the
            CPU itself this copy alone, while a checkpoint is on its way to the disk.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    gathered: int
    activations: int
    kept: int
    process: int
    host: int

    @property
    def tensors(self) -> int:
        """Of tensors, at the peak of a step."""
        state = self.weights + self.gradients + self.optimizer + self.averages
        return state + self.gathered + self.activations

    @property
    def total(self) -> int:
        """At the peak of a step."""
        return self.tensors + self.kept + self.process


def estimate(
    recipe: Recipe,
    *,
    processes: int = 1,
    microbatch: int | None = None,
    execution: Execution | None = None,
    device: str = "cpu",
    process: int | None = None,
) -> MemoryEstimate:
    """Estimate the memory of training by a recipe.

    Args:
        recipe: its batch is that of all processes, its precision that of the network.
        processes: that train together, one per device.
        microbatch: images per pass; by default the batch divided by the processes.
        execution: how it is carried out: what it says of sharding, recomputing, weights and averages.
        device: "cpu", or "cuda" for what tensors take on a GPU: neither the process nor the C library count there.
        process: bytes of the process itself, where they are known; measured otherwise.

    Raises:
        ValueError: if the microbatch does not divide the batch, or there are fewer than one.
    """
    how = execution or Execution()
    size = microbatch or -(-recipe.batch // processes)
    if size < 1 or processes < 1 or recipe.batch % size:
        raise ValueError(f"--microbatch {size}: must divide the batch of {recipe.batch} images")
    shard = how.shard and processes > 1
    shapes = trained_shapes(recipe)
    of_state = copy_bytes(shapes, processes, shard)
    passes = -(-(recipe.batch // size) // processes)
    # DDP's gradients have their place from the start, and those of the pass before are there in the second.
    resident = processes > 1 or passes > 1
    once = how.normalize_once and processes == 1 and passes > 1
    on_cpu = device == "cpu"
    fused = on_cpu and not (how.compile or how.kernels)
    keep = once or not resident
    one_pass = peak_bytes(lambda: step_on(recipe, size, how.recompute, keep=keep, once=once, fused=fused))
    gradients = of_state if resident else 0
    one_pass -= gradients if once else 0  # they are in it: those of normalized weights first, then the others
    lengths = len(recipe.ema) + bool(recipe.ema_half_life)
    elsewhere = how.ema_device == "cpu" and device != "cpu"
    averages = 0 if elsewhere else lengths * of_state
    copy = (3 + lengths) * of_state  # of a checkpoint: weights, optimizer, averages
    kept = KEPT_RECOMPUTING if how.recompute else KEPT
    return MemoryEstimate(
        weights=of_state,
        gradients=gradients,
        optimizer=2 * of_state,
        averages=averages,
        gathered=gathered_bytes(shapes, shard),
        activations=one_pass,
        kept=int(kept * one_pass) if on_cpu and sys.platform == "linux" else 0,
        process=0 if not on_cpu else process if process is not None else process_bytes(),
        host=copy + (2 * lengths * of_state if elsewhere else 0),
    )


def trained_shapes(recipe: Recipe) -> Shapes:
    """Shapes of what is trained, block by block."""
    with torch.device("meta"):
        denoiser = Denoiser(recipe.network)
        uncertainty = make_uncertainty(recipe.network.design, recipe.uncertainty_channels)
    return shapes_of(torch.nn.ModuleList([denoiser, uncertainty]), blocks(denoiser))


def step_on(
    recipe: Recipe, size: int, recompute: bool, keep: bool, once: bool = False, fused: bool = False
) -> Callable[[], None]:
    """One forward and backward pass with new networks, for `peak_bytes`.

    Args:
        recipe: what is trained.
        size: images of the pass.
        recompute: as in training.
        keep: whether gradients stay, rather than go at once to a place that is counted elsewhere.
        once: two passes instead, with weights that are normalized once for both.
        fused: whether blocks make fewer passes over memory, as on CPUs.
    """
    spec = recipe.network
    denoiser = Denoiser(spec, recipe.sigma_data).train()
    denoiser.dtype = DTYPES[recipe.precision]
    if fused:
        fuse_passes(denoiser)
    if recompute:
        recompute_blocks(denoiser)
    uncertainty = make_uncertainty(spec.design, recipe.uncertainty_channels)
    objective = Objective(denoiser, uncertainty, recipe.loss, together=fused and keep and not recompute)
    if not keep:
        for parameter in objective.parameters():
            parameter.register_post_accumulate_grad_hook(lambda tensor: setattr(tensor, "grad", None))

    def one_pass() -> None:
        clean = torch.empty(size, spec.channels, *spec.size)
        label = torch.zeros(size, spec.label_dim) if spec.label_dim else None  # one-hot: fake classes are no numbers
        told = placeholder(spec, label, size)
        loss = objective(clean, torch.ones(size), torch.empty_like(clean), told).loss
        (loss.sum() * 1.0).backward()

    def two_passes() -> None:
        with normalized_once(objective):
            one_pass()
            one_pass()

    return two_passes if once else one_pass


def process_bytes() -> int:
    """Resident memory of a fresh process at its peak, in which a network of next to nothing was trained for a step.

    Raises:
        OSError: if it fails.
    """
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    done = subprocess.run(
        [sys.executable, "-c", "from unitgain.train.estimate import next_to_nothing; next_to_nothing()"],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OSError(f"the memory of a process could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout.split()[-1])


def next_to_nothing() -> None:
    """Train a tiny network for two steps, and print the most memory that this process had."""
    import unitgain.train.loop  # noqa: F401  # what a run imports
    from unitgain.arch import NetworkSpec
    from unitgain.train.speed import peak_memory
    from unitgain.train.state import TrainState
    from unitgain.train.step import train_step
    from unitgain.train.warmup import microbatches

    spec = NetworkSpec(
        resolution=8, channels=1, model_channels=16, channel_mult=(1, 2), num_blocks=1, channels_per_head=16
    )
    recipe = Recipe(
        name="tiny", network=spec, loss=EDMLoss(P_mean=0.0, P_std=1.0), batch=4, duration=8, lr=0.01, snapshot_every=8
    )
    state = TrainState.start(recipe)
    for _ in range(2):
        train_step(state, recipe, microbatches(recipe, 4, state.device))
    print(peak_memory(state.device))
