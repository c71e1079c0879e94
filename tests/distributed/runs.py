"""What the tests of this folder run in several processes: a tiny network, trained for a few steps."""

import dataclasses
import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import torch

from unitgain.arch import NetworkSpec
from unitgain.data.dataset import ArrayDataset
from unitgain.loss import EDMLoss
from unitgain.parallel import World, full, processes
from unitgain.recipe import Recipe
from unitgain.train import Execution, TrainConfig, TrainState, train, train_step
from unitgain.train.batches import Batches

# 10 channels do not divide by 4 processes, and u(sigma) has one row only.
SPEC = NetworkSpec(
    resolution=8,
    channels=1,
    label_dim=3,
    model_channels=10,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=10,
    dropout=0.1,
)
RECIPE = Recipe(
    name="tiny",
    network=SPEC,
    loss=EDMLoss(P_mean=-0.8, P_std=1.0),
    batch=12,
    duration=96,
    lr=0.01,
    t_ref=4,
    rampup=24,
    snapshot_every=24,
    uncertainty_channels=8,
)


def config(**changes) -> TrainConfig:
    """Batches of three microbatches: on two and on four processes some have fewer than others."""
    values = {
        "recipe": RECIPE,
        "data": "tiny",
        "tick": 24,
        "checkpoint_every": 24,
        "microbatch": 4,
        "magnitudes_every": 48,
    }
    return TrainConfig(**{**values, "snapshot_dtype": "float32", **changes})


def data(seed: int = 1) -> ArrayDataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (29, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (29,), generator=generator)
    return ArrayDataset(name="tiny", images=images, labels=labels, classes=("a", "b", "c"))


def run(folder: Path, **options):
    """Train in this process, alone or as one of many."""
    return train(options.pop("config", config()), folder, options.pop("dataset", data()), **QUIET, **options)


QUIET = {"quiet": True, "tensorboard": False}


def steps(world: World, count: int, **how) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights and averages after some steps, whole, and the losses."""
    torch.manual_seed(3)
    state = TrainState.start(RECIPE, world=world, execution=Execution(**how))
    batches = Batches(config(), data(), world)
    losses = [train_step(state, RECIPE, batches.at(state.nimg)).loss for _ in range(count)]
    tensors = {name: full(tensor).clone() for name, tensor in state.modules.state_dict().items()}
    for index, ema in enumerate(state.emas):
        tensors |= {f"ema{index}.{name}": tensor.clone() for name, tensor in ema.full_tensors()}
    return tensors, losses


def train_all(rank: int, jobs: list[tuple[str, dict]]) -> None:
    """Run several trainings one after the other in the same processes."""
    with processes():
        for folder, options in jobs:
            result = run(Path(folder), **options)
            if rank == 0:
                (Path(folder) / "result.json").write_text(json.dumps([result.nimg, result.finished, result.signal]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Interrupted(ArrayDataset):
    """Sends a signal to the process of one rank when it takes images for the `turn`-th time."""

    rank: int
    turn: int
    number: int = signal.SIGTERM
    turns: list[int] = field(default_factory=lambda: [0])

    def rows(self, indices, out=None):
        self.turns[0] += 1
        if self.turns[0] == self.turn and int(os.environ.get("RANK", "0")) == self.rank:
            os.kill(os.getpid(), self.number)
        return super().rows(indices, out)


def interrupted(rank: int, turn: int, number: int = signal.SIGTERM) -> Interrupted:
    fields = {f.name: getattr(data(), f.name) for f in dataclasses.fields(ArrayDataset)}
    return Interrupted(**fields, rank=rank, turn=turn, number=number)
