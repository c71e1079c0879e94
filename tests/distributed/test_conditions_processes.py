"""Networks that are told more than a class, on two processes: the same as on one, up to the order of sums."""

import dataclasses

import pytest
import runs
import torch
from launch import launch

from unitgain.parallel import World, full, processes
from unitgain.train import Execution, TrainState, fit, train_step
from unitgain.train.batches import Batches

# Of losses; and of weights of magnitude 1, which a step moves by 0.01: Adam divides gradients by their size, and those
# of conditions that most of a batch lacks are small, so that the order of sums, all that differs, shows.
TOLERANCE, OF_WEIGHTS = 2e-5, 2e-4
STEPS = 4


VOLUMES = (8, 8, 4)


def told(size=()):
    """Conditions of every kind; a third of the rows have no tokens, and a microbatch may have none at all."""
    generator = torch.Generator().manual_seed(4)
    data, rows = runs.data(), len(runs.data())
    if size:
        images = torch.randint(0, 256, (rows, 1, *size), generator=generator, dtype=torch.uint8)
        data = dataclasses.replace(data, images=images)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    values = {
        "style": normal(rows, 5),
        "age": [None if row % 5 == 0 else float(row) for row in range(rows)],
        "small": normal(rows, 2, *(side // 2 for side in data.shape[1:])),
        "text": [None if row % 3 else normal(1 + row % 2, 6) for row in range(rows)],
    }
    return dataclasses.replace(data, conditions=values)


def steps(world, size=(), **how):
    data = told(size)
    network = runs.RECIPE.network.replace(resolution=size or runs.RECIPE.network.resolution)
    recipe = runs.RECIPE.replace(network=fit(network, data), label_dropout=0.1)
    torch.manual_seed(3)
    state = TrainState.start(recipe, world=world, execution=Execution(**how))
    batches = Batches(runs.config(recipe=recipe, microbatch=2), data, world)
    losses = [train_step(state, recipe, batches.at(state.nimg)).loss for _ in range(STEPS)]
    return {name: full(tensor).clone() for name, tensor in state.modules.state_dict().items()}, losses


def record(rank, path):
    with processes() as world:
        found = {(size, shard): steps(world, size, shard=shard) for size in ((), VOLUMES) for shard in (False, True)}
        found["recomputed"] = steps(world, shard=True, recompute=True)
    if rank == 0:
        torch.save(found, path)


def test_two_processes_train_as_one(tmp_path):
    launch(record, 2, str(tmp_path / "found"))
    found = torch.load(tmp_path / "found")
    for size in ((), VOLUMES):
        tensors, losses = steps(World(), size)
        for shard in (False, True):
            assert found[size, shard][1] == pytest.approx(losses, rel=TOLERANCE)
            assert found[size, shard][0].keys() == tensors.keys()
            for name, tensor in found[size, shard][0].items():
                assert (tensor - tensors[name]).abs().max() < OF_WEIGHTS, name
    for name, tensor in found["recomputed"][0].items():
        assert torch.equal(tensor, found[(), True][0][name]), name
