"""What is planned for data on a machine: by the papers' rules, within memory and time, heeding what is fixed."""

import math
from dataclasses import replace

import pytest
import torch

from unitgain.data.dataset import ArrayDataset
from unitgain.data.digits import digits
from unitgain.recipe import trained_parameters
from unitgain.recipes import RECIPES
from unitgain.train import plan
from unitgain.train.accumulation import numbers
from unitgain.train.estimate import MemoryEstimate
from unitgain.train.rules import batch_for, carried, learning_rate, network_for, recipe_for, sized

GB = 10**9


@pytest.fixture(autouse=True)
def _memory_in_proportion(monkeypatch):
    """An estimate at no cost: a hundred bytes for each number of each block, and six numbers for each parameter."""

    def estimate(recipe, microbatch, **_):
        nothing = dict.fromkeys(("gradients", "optimizer", "averages", "gathered", "kept", "process", "host"), 0)
        each = 100 * numbers(recipe.network)
        return MemoryEstimate(weights=24 * trained_parameters(recipe), activations=each * microbatch, **nothing)

    monkeypatch.setattr("unitgain.train.accumulation.estimate", estimate)


def data(count=40, channels=3, side=8, classes=5, value=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    if value is not None:
        images = (images > 250).to(torch.uint8) * value
    labels = torch.arange(count) % classes if classes else None
    names = tuple(f"class {number}" for number in range(classes)) if classes else None
    return ArrayDataset(name="made", images=images, labels=labels, classes=names)


def machine(speed, power=2.0):
    """A machine whose speed falls with a power of the width and of the blocks, and the square of the resolution."""

    def measure(recipe, images, device):
        network = recipe.network
        width = network.model_channels * (2 * network.num_blocks + 3) ** 0.5 / 5**0.5
        return speed / width**power / network.resolution**2

    return measure


def planned(dataset=None, *, speed=3e6, **how):
    how = {"device": "cpu", "memory": 4 * GB, "measure": machine(speed), **how}
    return plan(dataset or data(), **how)


@pytest.mark.parametrize(
    "shape, resolutions",
    [
        ((3, 64, 64), (16, 8)),
        ((3, 48, 64), (16, 8)),
        ((1, 16, 16), (16, 8, 4)),
        ((2, 1000), (250, 125)),
        ((1, 256), (256, 128, 64, 32)),
        ((1, 16, 16, 16), (4,)),
        ((1, 8, 32, 32), ()),
        ((1, 24, 24, 24), (6,)),
    ],
)
def test_attention_is_planned_where_it_costs_no_more_than_in_images_of_16x16(shape, resolutions):
    """Not by the length of a side alone: 16x16x16 are 4096 positions, each of which would look at all."""
    assert network_for(shape, 0, 16, 1, depthwise=False).attn_resolutions == resolutions


def test_the_rules_meet_the_papers_and_the_small_recipes():
    for name in ("edm2-img512-xs", "edm2-img512-s", "edm2-img512-m", "edm2-img512-l", "edm2-img512-xxl"):
        recipe = RECIPES[name]
        made = recipe_for(recipe.network, 2**31, latents=True, precision="float16")
        assert made.lr == pytest.approx(recipe.lr, rel=0.06)
        assert (made.batch, made.duration) == (2048, 2**31)
        assert made.t_ref == pytest.approx(recipe.t_ref, rel=0.01) and made.rampup == pytest.approx(10e6, rel=0.01)
        assert (made.loss, made.ema, made.beta2) == (recipe.loss, recipe.ema, recipe.beta2)
    digits = RECIPES["digits"]
    short = recipe_for(digits.network, digits.duration, batch=digits.batch)
    assert (short.lr, short.t_ref, short.duration) == (digits.lr, digits.t_ref, digits.duration)
    assert short.rampup == pytest.approx(digits.rampup, rel=0.3)
    assert carried(1_281_167) == 2**31 and carried(3) == 2**15 and carried(700) == pytest.approx(1676 * 700, rel=1e-3)
    assert [batch_for(images) for images in (1, 2**19, 2**27, 2**31, 2**40)] == [32, 32, 512, 2048, 2048]
    assert learning_rate(16) == learning_rate(32) == 0.02


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (8, 8), (28, 28), (30, 30), (48, 64), (72, 72), (100, 100)])
@pytest.mark.parametrize("width", [16, 24, 48, 192])
def test_there_is_a_network_for_every_size(size, width):
    network = network_for((1, *size), 3, width, 1, depthwise=width == 48)
    assert (network.size, network.channels, network.label_dim, network.model_channels) == (size, 1, 3, width)
    assert min(network.level_sizes[-1]) >= min(*size, 4)
    assert len(network.channel_mult) == 4 or min(network.level_sizes[-1]) <= 7
    assert network.level_sizes[-1] == tuple(-(-side // network.multiple) for side in size)


@pytest.mark.parametrize(
    "width, head",
    [(7, 7), (16, 16), (20, 20), (24, 24), (36, 36), (50, 50), (64, 64), (67, 67), (96, 48), (134, 67), (160, 80)],
)
def test_heads_of_every_width_have_channels_enough(width, head):
    assert sized(RECIPES["digits"].network, width=width).channels_per_head == head
    assert network_for((3, 16, 16), 0, width, 1, depthwise=False).channels_per_head == head


def test_time_decides_on_the_network_and_the_duration():
    slow, fast = planned(hours=0.5, speed=3e5), planned(hours=0.5, speed=3e6)
    assert fast.recipe.network.model_channels > slow.recipe.network.model_channels
    for found in (slow, fast):
        assert found.seconds <= 1800 * 1.02
    few, long = planned(hours=0.01, speed=3e5), planned(hours=3)
    assert few.recipe.network.model_channels == 16 and "rough" in few.reasons[1] and few.seconds < 40
    assert long.recipe.duration == pytest.approx(carried(40), abs=32)
    assert len(slow.reasons) == 5 and slow.recipe.duration / slow.recipe.snapshot_every >= 16
    assert "0.75 h" not in slow.reasons[1] and "30 min" in slow.reasons[1]


def test_memory_decides_on_the_network_and_the_accumulation():
    ample = planned(hours=1)
    tight = planned(hours=1, memory=ample.memory // 8)
    assert tight.memory <= ample.memory // 8
    smaller = tight.recipe.network.model_channels < ample.recipe.network.model_channels
    assert smaller or tight.config.microbatches > 1
    with pytest.raises(ValueError, match="not even the smallest network fits"):
        planned(memory=10**6)


@pytest.mark.parametrize("power", [1.3, 2.0, 3.0])  # 2 is what a plan expects of sizes that it has not measured
def test_more_hours_give_no_smaller_network_and_no_run_too_short_for_it(power):
    scale = 3e6 * 16 ** (power - 2)
    found = [planned(hours=hours, measure=machine(scale, power)) for hours in (0.01, 0.2, 1, 3, 20)]
    sizes = [(one.recipe.network.model_channels, one.recipe.network.num_blocks) for one in found]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    for one in found[1:]:
        assert one.recipe.duration >= min(trained_parameters(one.recipe) / 8, carried(40))


def test_less_memory_gives_no_larger_step():
    rooms = [4 * GB // 4**turn for turn in range(5)]
    found = [planned(hours=2, memory=room) for room in rooms]
    steps = [one.memory for one in found]
    assert steps == sorted(steps, reverse=True) and steps[0] > steps[-1]
    assert all(step <= room for step, room in zip(steps, rooms, strict=True))


def test_blocks_are_those_that_the_machine_trains_faster_at_the_width():
    def depthwise(**how):
        return "d" in planned(**how).recipe.network.branch.split()

    def fixed(width):
        return lambda config: replace(
            config, recipe=config.recipe.replace(network=sized(config.recipe.network, width=width))
        )

    assert [depthwise(change=fixed(width)) for width in (16, 32, 48, 64, 128)] == [False, False, False, True, True]
    assert not depthwise(hours=0.1) and depthwise(hours=5, speed=1e8)
    small, large = planned(change=fixed(16)).reasons[0], planned(change=fixed(64)).reasons[0]
    assert "EDM2 blocks, which a CPU trains faster" in small and "EDM2+ blocks, which a CPU trains faster" in large


@pytest.mark.parametrize(
    "field, value",
    [("lr", 0.003), ("t_ref", 77.0), ("rampup", 0), ("ema", (0.07,)), ("precision", "bfloat16"), ("beta2", 0.9)],
)
def test_fields_that_are_fixed_are_kept(field, value):
    def change(config):
        return replace(config, seed=5, microbatch=4, recipe=config.recipe.replace(**{field: value}))

    found = planned(change=change).config
    assert (found.seed, found.microbatch, getattr(found.recipe, field)) == (5, 4, value)


def test_what_is_fixed_is_heeded_in_the_rest():
    def change(config):
        return replace(config, recipe=config.recipe.replace(network=sized(config.recipe.network, width=40), batch=100))

    found = planned(hours=0.2, change=change)
    assert (found.recipe.network.model_channels, found.recipe.batch) == (40, 100)
    assert found.recipe.network.channels_per_head == 40 and found.recipe.lr == 0.02
    assert 600 < found.seconds < 760
    longer = planned(hours=0.2, change=lambda config: replace(config, recipe=config.recipe.replace(duration=3200)))
    assert longer.recipe.duration == 3200 and longer.recipe.snapshot_every <= 128
    assert longer.recipe.network.model_channels == 16  # of more, 3200 images would be too few


def test_data_decide_on_classes_channels_and_normalization():
    found = planned(data(channels=1, side=30, classes=0))
    assert "padded to 32x32" in found.reasons[0]
    assert (found.recipe.network.channels, found.recipe.network.label_dim, found.recipe.label_dropout) == (1, 0, 0)
    assert planned().recipe.label_dropout > 0 and planned().recipe.network.label_dim == 5
    assert planned(data(value=255)).config.normalize == "measured"
    assert planned(digits()).config.normalize == "official"  # they bring their own
    assert planned(digits()).config.data == "digits"


def test_nonsense_is_refused():
    for hours in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="hours"):
            planned(hours=hours)
