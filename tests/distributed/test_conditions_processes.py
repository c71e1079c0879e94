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


def told():
    """Conditions of every kind; a third of the rows have no tokens, and a microbatch may have none at all."""
    generator = torch.Generator().manual_seed(4)
    rows = len(runs.data())

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    values = {
        "style": normal(rows, 5),
        "age": [None if row % 5 == 0 else float(row) for row in range(rows)],
        "small": normal(rows, 2, 4, 4),
        "text": [None if row % 3 else normal(1 + row % 2, 6) for row in range(rows)],
    }
    return dataclasses.replace(runs.data(), conditions=values)


def steps(world, **how):
    data = told()
    recipe = runs.RECIPE.replace(network=fit(runs.RECIPE.network, data), label_dropout=0.1)
    torch.manual_seed(3)
    state = TrainState.start(recipe, world=world, execution=Execution(**how))
    batches = Batches(runs.config(recipe=recipe, microbatch=2), data, world)
    losses = [train_step(state, recipe, batches.at(state.nimg)).loss for _ in range(STEPS)]
    return {name: full(tensor).clone() for name, tensor in state.modules.state_dict().items()}, losses


def record(rank, path):
    with processes() as world:
        found = {shard: steps(world, shard=shard) for shard in (False, True)}
        found["recomputed"] = steps(world, shard=True, recompute=True)
    if rank == 0:
        torch.save(found, path)


def test_two_processes_train_as_one(tmp_path):
    launch(record, 2, str(tmp_path / "found"))
    found, (tensors, losses) = torch.load(tmp_path / "found"), steps(World())
    for shard in (False, True):
        assert found[shard][1] == pytest.approx(losses, rel=TOLERANCE)
        assert found[shard][0].keys() == tensors.keys()
        for name, tensor in found[shard][0].items():
            assert (tensor - tensors[name]).abs().max() < OF_WEIGHTS, name
    for name, tensor in found["recomputed"][0].items():
        assert torch.equal(tensor, found[True][0][name]), name
