"""Seeds beyond what generators tell apart are refused wherever they come in, before anything is done."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

from unitgain.cli.arguments import parse_seeds
from unitgain.metrics.metric import KernelDistance
from unitgain.sample.generation import generate
from unitgain.sample.seeds import Between, check_seeds
from unitgain.sweep.cells import SweepConfig
from unitgain.train import TrainConfig

WRONG = (2**32, 2**64, -1)


@pytest.mark.parametrize("seed", WRONG)
def test_settings_with_seeds(seed, tiny_recipe):
    config = TrainConfig(recipe=tiny_recipe, data="tiny", tick=16, checkpoint_every=32)
    for make in (lambda: dataclasses.replace(config, seed=seed), lambda: KernelDistance(seed=seed)):
        with pytest.raises(ValueError, match=rf"seed {seed} is out of range|seed of KID {seed} is out"):
            make()
    assert dataclasses.replace(config, seed=2**32 - 1).seed == 2**32 - 1


def test_a_sweep_counts_its_seeds_to_the_last():
    SweepConfig(lengths=(0.1,), guidance=(1.0,), images=10, repeat=2, first_seed=2**32 - 20)
    with pytest.raises(ValueError, match=f"the last seed of the sweep, {2**32} is out of range"):
        SweepConfig(lengths=(0.1,), guidance=(1.0,), images=10, repeat=2, first_seed=2**32 - 19)


def test_seeds_of_the_command_line():
    assert parse_seeds("4294967294-4294967295,0") == [2**32 - 2, 2**32 - 1, 0]
    for text in ("4294967296", "4294967290-4294967296", "18446744073709551616"):
        with pytest.raises(ValueError, match=r"is out of range: seeds are whole numbers from 0 to 4294967295"):
            parse_seeds(text)


@pytest.mark.parametrize("seed", [0.5, "1", None])
def test_what_is_no_whole_number_is_refused(seed):
    with pytest.raises(ValueError, match="seeds are whole numbers from 0 to 4294967295, not"):
        inspect.unwrap(check_seeds)([0, seed])  # without the check of types that tests have
    inspect.unwrap(check_seeds)([np.int64(3), torch.tensor(4), Between(1, 2, 0.5)])


@pytest.mark.parametrize("seed", WRONG)
def test_drawing(seed, tiny_recipe):
    from unitgain.recipes import create
    from unitgain.sample import sigma_grid

    with pytest.raises(ValueError, match=f"seed {seed} is out of range"):
        next(generate(create(tiny_recipe).eval(), [0, 1, seed], sigma_grid(2), batch=1))
