"""The memory of state as it is estimated against what two and four processes hold."""

import pytest
import runs
from launch import launch

from unitgain.analysis.memory import copy_bytes
from unitgain.parallel import local, processes
from unitgain.train import Execution, TrainState, train_step
from unitgain.train.batches import Batches
from unitgain.train.estimate import trained_shapes


def bytes_of(tensors):
    return sum(local(tensor).numel() * 4 for tensor in tensors)


def held(state: TrainState) -> int:
    """Bytes of parameters, optimizer and averages here, and of gradients, which are as large as parameters."""
    parameters = list(state.modules.parameters())
    moments = [state.optimizer.state[p][key] for p in parameters for key in ("exp_avg", "exp_avg_sq")]
    averages = [tensor for ema in state.emas for tensor in ema.average.values()]
    return 2 * bytes_of(parameters) + bytes_of(moments) + bytes_of(averages)


def compare(rank: int) -> None:
    with processes() as world:
        for shard in (False, True):
            state = TrainState.start(runs.RECIPE, world=world, execution=Execution(shard=shard))
            train_step(state, runs.RECIPE, Batches(runs.config(), runs.data(), world).at(0))
            averages = len(runs.RECIPE.ema)
            estimated = (4 + averages) * copy_bytes(trained_shapes(runs.RECIPE), world.size, shard)
            # Averages are of the network alone, not of u(sigma), whose few numbers the estimate counts too.
            assert max(world.gather(held(state))) == estimated - averages * 4 * runs.RECIPE.uncertainty_channels


@pytest.mark.parametrize("size", [2, 4])
def test_state_takes_what_is_estimated(size):
    launch(compare, size)
