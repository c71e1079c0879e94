"""Runs of networks that are told more than a class."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
import torch

import unitgain
from unitgain.arch.conditions import Image, Scalar, Tokens, Vector
from unitgain.checkpoint.snapshot import Snapshot
from unitgain.data.captions import captioned_grid
from unitgain.data.dataset import ArrayDataset
from unitgain.draw import DataRows, DrawSettings
from unitgain.parallel import World
from unitgain.report.magnitudes import measure_snapshot
from unitgain.serial import from_dict
from unitgain.train import Evaluation, Init, TrainConfig, TrainState, fit, plan, train, train_step
from unitgain.train.batches import Batches
from unitgain.train.estimate import estimate

ROWS = 29


def normal(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def told(tiny_data):
    values = {
        "style": normal(ROWS, 5),
        "age": [None if row == 3 else float(row) for row in range(ROWS)],
        "small": normal(ROWS, 2, 4, 4),
        "text": [normal(row % 4, 6, seed=row) for row in range(ROWS)],
    }
    return dataclasses.replace(tiny_data, conditions=values)


@pytest.fixture
def config(tiny_recipe, told):
    recipe = tiny_recipe.replace(network=fit(tiny_recipe.network, told), label_dropout=0.1)
    return TrainConfig(recipe=recipe, data="tiny", tick=16, checkpoint_every=32, microbatch=4, magnitudes_every=48)


def run(config, folder, data, **options):
    return train(config, folder, data, quiet=True, tensorboard=False, **options)


def snapshots(folder):
    return {path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Failing(ArrayDataset):
    """Fails when it has been read so many times."""

    left: list

    def rows(self, indices, out=None):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise OSError("the disk is gone")
        return super().rows(indices, out)


def test_a_run_is_the_same_when_it_is_broken_off_and_resumed(tmp_path, config, told):
    run(config, tmp_path / "whole", told)
    fields = {field.name: getattr(told, field.name) for field in dataclasses.fields(told)}
    with pytest.raises(OSError, match="the disk is gone"):
        run(config, tmp_path / "parts", Failing(**fields, left=[15]))
    run(config, tmp_path / "parts", told, resume=True)
    assert snapshots(tmp_path / "parts") == snapshots(tmp_path / "whole")
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert saved["conditions"] == ["style", "age", "small", "text"]
    assert from_dict(TrainConfig, saved).recipe.network == config.recipe.network
    path = tmp_path / "whole" / "snapshots" / "0000000096-0.100.safetensors"
    denoiser = unitgain.load(path)
    assert denoiser.spec.conditions == config.recipe.network.conditions
    images = told.conditions_of(torch.arange(4).numpy())
    pictures = [unitgain.sample_images(denoiser, range(4), conditions=one) for one in (images, None)]
    assert [a.tobytes() for a in pictures[0]] != [b.tobytes() for b in pictures[1]]


def state_of(config, told, **changes):
    torch.manual_seed(3)
    state = TrainState.start(config.recipe)
    return state, Batches(dataclasses.replace(config, **changes), told, World())


def test_every_condition_is_learned_from_in_the_first_steps(config, told):
    state, batches = state_of(config, told)
    before = {name: parameter.clone() for name, parameter in state.denoiser.named_parameters()}
    for _ in range(3):
        train_step(state, config.recipe, batches.at(state.nimg))
    told_by = [name for name in before if any(part in name for part in ("conditions", "cross", "8x8_conv"))]
    assert len(told_by) >= 6
    for name, parameter in state.denoiser.named_parameters():
        if name in told_by:
            assert (parameter - before[name]).abs().max() > 1e-3, name


class Lacking(ArrayDataset):
    """Of which no row has anything."""

    def conditions_of(self, indices):
        got = super().conditions_of(indices)
        for name in got.values:
            got = got.without(name, torch.ones(len(indices), dtype=torch.bool))
        return got


def test_absence_in_the_data_equals_dropout(config, told):
    network = config.recipe.network
    always = tuple(dataclasses.replace(one, dropout=1 - 1e-9) for one in network.conditions)
    dropped = dataclasses.replace(config, recipe=config.recipe.replace(network=network.replace(conditions=always)))
    fields = {field.name: getattr(told, field.name) for field in dataclasses.fields(told)}
    losses = []
    for one, data in ((config, told), (config, Lacking(**fields)), (dropped, told)):
        state, batches = state_of(one, data)
        losses.append([train_step(state, one.recipe, batches.at(state.nimg)).loss for _ in range(3)])
    assert losses[1] == losses[2] != losses[0]


def test_gradients_are_finite_where_conditions_are_absent(config, told):
    state, batches = state_of(config, told)
    part = next(iter(batches.at(0)))
    with torch.no_grad():
        for parameter in state.denoiser.parameters():
            if parameter.ndim == 0:
                parameter.add_(0.1)
    label = part.label
    for name in label.values:
        label = label.without(name, torch.ones(4, dtype=torch.bool))
    state.objective(part.clean, part.sigma, part.noise, label).loss.sum().backward()
    for name, parameter in state.denoiser.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_a_plan_declares_what_the_data_hold(told):
    found = plan(told, hours=0.1, device="cpu", measure=lambda recipe, images, device: 50.0)
    kinds = [type(one) for one in found.recipe.network.conditions]
    assert kinds == [Vector, Scalar, Image, Tokens]
    assert "style (a vector of 5), age (an amount of scale" in found.reasons[0]
    only = plan(
        told,
        hours=0.1,
        device="cpu",
        change=lambda config: dataclasses.replace(config, conditions=("text",)),
        measure=lambda recipe, images, device: 50.0,
    )
    assert [one.name for one in only.recipe.network.conditions] == ["text"]


def test_memory_and_costs_count_what_conditions_take(config):
    from unitgain.analysis.cost import network_cost

    plain, network = config.recipe.network.replace(conditions=()), config.recipe.network
    assert network_cost(network).macs > network_cost(plain).macs
    assert network_cost(network).parameters > network_cost(plain).parameters
    many = (Tokens(name="text", dim=512, resolutions=(8, 4)),)
    recipe = config.recipe.replace(network=network.replace(conditions=many))
    assert estimate(recipe, process=0).total > estimate(config.recipe.replace(network=plain), process=0).total


def test_fine_tuning_with_a_new_condition_begins_as_the_snapshot(tmp_path, tiny_recipe, tiny_data, told):
    run(TrainConfig(recipe=tiny_recipe, data="tiny"), tmp_path / "old", tiny_data)
    path = tmp_path / "old" / "snapshots" / "0000000096-raw.safetensors"
    with Snapshot(path) as snapshot:
        init = Init(name=str(path), sha256=snapshot.sha256)
    network = fit(tiny_recipe.network, told, ["small", "text"])
    config = TrainConfig(
        recipe=tiny_recipe.replace(network=network), data="tiny", init=init, conditions=("small", "text")
    )
    run(
        dataclasses.replace(config, recipe=config.recipe.replace(duration=8, snapshot_every=8, lr=1e-9)),
        tmp_path / "new",
        told,
    )
    old, new = unitgain.load(path), unitgain.load(tmp_path / "new" / "snapshots" / "0000000008-raw.safetensors")
    x, label = normal(3, 1, 8, 8), torch.tensor([0, 1, 2])
    small = told.conditions_of(torch.arange(3).numpy()).only(["small"])
    given = new(x, 0.5, small.with_label(label))
    torch.testing.assert_close(
        given, old(x, 0.5, label), rtol=2e-3, atol=2e-3
    )  # text is absent, the image not looked at
    weight = new.network.get_parameter("enc.8x8_conv.weight")
    assert weight.shape[1] == 2 + 3
    rows = [row for row in (tmp_path / "new" / "stats.jsonl").read_text().splitlines() if "init" in row]
    assert "0 for what is new: small" in rows[0]


def test_grids_on_the_way_are_drawn_for_the_rows_of_the_data(tmp_path, config, told):
    evaluation = Evaluation(samples_every=96, samples=3, steps=2)
    run(dataclasses.replace(config, evaluation=evaluation), tmp_path, told)
    path = tmp_path / "snapshots" / "0000000096-0.050.safetensors"
    denoiser = unitgain.prepare(unitgain.load(path), torch.float32)
    rows = DataRows.mixed(told)
    drawn = unitgain.sample_pixels(denoiser, range(3), settings=DrawSettings(steps=2, conditions=rows))
    both = (told.images[rows.numbers(range(3))], drawn)
    left, right = (one.repeat_interleave(8, -2).repeat_interleave(8, -1) for one in both)
    pairs = torch.cat([left, torch.full((3, 1, 64, 1), 255, dtype=torch.uint8), right], -1)
    with PIL.Image.open(tmp_path / "samples" / "0000000096.png") as picture:
        near = np.asarray(picture, dtype=float) - np.asarray(captioned_grid(pairs, [], None), dtype=float)
    assert np.abs(near).mean() < 3  # the snapshot is float16


def test_magnitudes_of_a_snapshot_are_measured_with_what_it_is_told(tmp_path, config, told):
    recipe = config.recipe.replace(duration=8, snapshot_every=8)
    run(dataclasses.replace(config, recipe=recipe), tmp_path, told)
    path = tmp_path / "snapshots" / "0000000008-raw.safetensors"
    _, row = measure_snapshot(path, told, samples=8, loss=recipe.loss)
    for name, values in row["magnitudes"].items():
        assert 0.3 < values["activation_mean"] < 3, name
