"""Memory and messages on paper against what two and four processes hold and send."""

import runs
import torch
import torch.distributed as dist
from launch import launch

from unitgain.analysis.scaling import Traffic, shapes_of, state_bytes, traffic
from unitgain.parallel import local, processes
from unitgain.train import TrainState, train_step
from unitgain.train.batches import Batches
from unitgain.train.blocks import blocks


def bytes_of(tensors):
    return sum(local(tensor).numel() * 4 for tensor in tensors)


def held(state: TrainState) -> int:
    """Bytes of parameters, optimizer and averages here, and of gradients, which are as large as parameters."""
    parameters = list(state.modules.parameters())
    moments = [state.optimizer.state[p][key] for p in parameters for key in ("exp_avg", "exp_avg_sq")]
    averages = [tensor for ema in state.emas for tensor in ema.average.values()]
    return 2 * bytes_of(parameters) + bytes_of(moments) + bytes_of(averages)


def measured(world, shard: bool) -> Traffic:
    """What goes through torch.distributed in one step."""
    torch.manual_seed(3)
    state = TrainState.start(runs.RECIPE, world=world, shard=shard)
    batches = Batches(runs.config(), runs.data(), world)
    train_step(state, runs.RECIPE, batches.at(0))
    # The first two have another name in newer versions of torch.
    gather, scatter = (
        ("all_gather_single", "reduce_scatter_single")
        if hasattr(dist, "all_gather_single")
        else ("all_gather_into_tensor", "reduce_scatter_tensor")
    )
    seen = {gather: 0, scatter: 0, "all_reduce": 0}
    originals = {name: getattr(dist, name) for name in seen}

    def counting(name, place):
        def call(*args, **kwargs):
            tensor = args[place] if len(args) > place else list(kwargs.values())[place]
            seen[name] += tensor.numel() * tensor.element_size() if tensor.dtype == torch.float32 else 0
            return originals[name](*args, **kwargs)

        return call

    for name, place in ((gather, 0), (scatter, 1), ("all_reduce", 0)):
        setattr(dist, name, counting(name, place))
    try:
        train_step(state, runs.RECIPE, batches.at(state.nimg))
    finally:
        for name, function in originals.items():
            setattr(dist, name, function)
    gathered, scattered, summed = seen.values()
    largest = max(world.gather(held(state)))
    shapes = shapes_of(state.modules, blocks(state.denoiser)) if not shard else None
    return Traffic(gathered=gathered, scattered=scattered, summed=summed), largest, shapes


def compare(rank: int) -> None:
    passes = {2: 2, 4: 1}  # of three microbatches
    with processes() as world:
        found, largest, shapes = measured(world, shard=False)
        averages = len(runs.RECIPE.ema)
        assert found == traffic(shapes, world.size, shard=False, passes=passes[world.size])
        # Averages are of the network alone, not of u(sigma), whose few numbers the estimate counts too.
        extra = averages * 4 * runs.RECIPE.uncertainty_channels
        assert largest == state_bytes(shapes, world.size, shard=False, averages=averages) - extra
        found, largest, _ = measured(world, shard=True)
        assert found == traffic(shapes, world.size, shard=True, passes=passes[world.size])
        assert largest == state_bytes(shapes, world.size, shard=True, averages=averages) - extra


def test_messages_and_memory_are_what_the_formula_says_on_two():
    launch(compare, 2)


def test_messages_and_memory_are_what_the_formula_says_on_four():
    launch(compare, 4)
