"""Magnitudes of a step and figures of the machine, and that looking changes no number of a run."""

import json
import time

import pytest
import torch

from unitgain.analysis.cost import network_cost
from unitgain.data.loader import Loader
from unitgain.denoiser import Denoiser
from unitgain.parallel import World
from unitgain.train import Microbatch, Observer, TrainConfig, TrainState, train, train_step
from unitgain.train import speed as speeds
from unitgain.train.parts import SMALL, StepProbe, weight_part
from unitgain.train.run import Window
from unitgain.train.speed import Speed, peak_memory
from unitgain.train.statistics import Statistics


def batch_of(recipe):
    clean = 0.5 * torch.randn(recipe.batch, 1, 8, 8)
    sigma, noise = recipe.loss.draw(clean)
    return [Microbatch(clean=clean, sigma=sigma, noise=noise)]


class Around(Observer):
    """Looks at the optimizer's step."""

    def __init__(self, state):
        self.probe = StepProbe(state.modules)
        self.before_update, self.after_update = self.probe.before, self.probe.after


def test_magnitudes_of_a_step_are_those_of_the_tensors(tiny_recipe):
    state = TrainState.start(tiny_recipe)
    state.nimg = 100  # past the first step, whose learning rate is 0
    for ema in state.emas:
        ema.t = 100.0
    train_step(state, tiny_recipe, batch_of(tiny_recipe))
    named = dict(state.modules.named_parameters())
    before, gradients = {}, {}

    def look(*_):
        before.update({name: p.detach().clone() for name, p in named.items()})
        gradients.update({name: p.grad.clone() for name, p in named.items()})

    state.optimizer.register_step_pre_hook(look)
    around = Around(state)
    train_step(state, tiny_recipe, batch_of(tiny_recipe), observers=[around])
    parts = around.probe.parts(World())
    order = ["embedding", "Enc 8x8", "Enc 4x4", "Dec 4x4", "Dec 8x8", "output", "uncertainty", SMALL]
    assert list(parts) == order
    for part, found in parts.items():
        names = [name for name, p in named.items() if weight_part(name, p.ndim) == part]
        for key, tensors in (
            ("gradient", [gradients[name] for name in names]),
            ("weight", [before[name] for name in names]),
            ("update", [named[name] - before[name] for name in names]),
        ):
            elements = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
            assert found[key] == pytest.approx(elements.square().mean().sqrt().item(), rel=1e-5), (part, key)
    assert parts["Enc 8x8"]["weight"] == pytest.approx(1.0, abs=1e-3)  # forced normalization
    assert 0 < parts["Enc 8x8"]["update"] < 0.1


def test_a_step_that_is_not_made_is_noticed(tiny_recipe):
    state = TrainState.start(tiny_recipe)
    with pytest.raises(AssertionError, match="made no step"):
        StepProbe(state.modules).parts(World())


def test_watching_a_step_waits_for_nothing(tiny_spec):
    network = Denoiser(tiny_spec).to("meta")
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    probe = StepProbe(network)
    probe.before()
    probe.after()
    assert probe.squares.is_meta


def test_parts_by_name():
    assert weight_part("denoiser.network.enc.64x64_block0.branch.conv0.weight", 4) == "Enc 64x64"
    assert weight_part("denoiser.network.dec.8x8_in0.attention.qkv.weight", 4) == "Dec 8x8"
    assert weight_part("denoiser.network.embedding.label.weight", 2) == "embedding"
    assert weight_part("denoiser.network.out_conv.weight", 4) == "output"
    assert weight_part("uncertainty.linear.weight", 2) == "uncertainty"
    assert weight_part("denoiser.network.out_gain", 0) == SMALL
    assert weight_part("denoiser.network.enc.8x8_block0.norm.bias", 1) == SMALL


class Blind(Statistics):
    """Does not look."""

    def after(self, microbatch, loss):
        pass

    def before_update(self):
        pass

    def after_update(self):
        pass

    def report(self, report):
        pass

    def settle(self):
        return Window()


def test_looking_changes_no_number_of_a_run(tmp_path, tiny_recipe, tiny_data, monkeypatch):
    recipe = tiny_recipe.replace(network=tiny_recipe.network.replace(dropout=0.2))
    config = TrainConfig(recipe=recipe, data="tiny", tick=16, checkpoint_every=32, microbatch=4, magnitudes_every=32)
    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    train(config, seen, tiny_data, quiet=True, tensorboard=False)
    with monkeypatch.context() as patched:
        patched.setattr("unitgain.train.loop.Statistics", Blind)
        patched.setattr("unitgain.train.loop.Magnitudes", lambda run: Observer())
        train(config, unseen, tiny_data, quiet=True, tensorboard=False)
    assert not (unseen / "stats.jsonl").exists()
    for path in (seen / "snapshots").iterdir():
        assert path.read_bytes() == (unseen / "snapshots" / path.name).read_bytes(), path.name
    rows = [json.loads(line) for line in (seen / "stats.jsonl").read_text().splitlines()]
    ticks = [row for row in rows if "loss" in row]
    assert len(ticks) == 6
    for row in ticks:
        levels = row["noise_levels"]
        assert sum(levels["images"]) == 16
        total = sum(loss * n for loss, n in zip(levels["loss"], levels["images"], strict=True) if n)
        assert total / 16 == pytest.approx(row["loss"], rel=1e-5)
        assert row["parts"].keys() == ticks[0]["parts"].keys()
        assert row["peak_share"] > 0
        assert 0 <= row["data_wait_share"] <= 1


def test_observers_of_ones_own_see_every_step(tmp_path, tiny_recipe, tiny_data):
    config = TrainConfig(recipe=tiny_recipe, data="tiny", tick=16, checkpoint_every=32, microbatch=4)
    seen, errors = [], []

    class Own(Observer):
        def __init__(self, run):
            self.run = run

        def start(self):
            seen.append("start")

        def after(self, microbatch, loss):
            assert not loss.error.requires_grad
            errors.append(loss.error.mean().item())

        def report(self, report):
            seen.append((self.run.state.nimg, report.loss))

        def end(self):
            seen.append("end")

    train(config, tmp_path / "run", tiny_data, quiet=True, tensorboard=False, observe=lambda run: [Own(run)])
    assert (seen[0], seen[-1]) == ("start", "end")
    steps = tiny_recipe.duration // tiny_recipe.batch
    assert [nimg for nimg, _ in seen[1:-1]] == [(step + 1) * tiny_recipe.batch for step in range(steps)]
    assert len(errors) == steps * tiny_recipe.batch // 4
    assert errors[0] == pytest.approx(1.0, abs=0.5)  # of a network that knows nothing


def test_speed_is_counted_from_what_is_known(tiny_recipe, tiny_data):
    tiny_spec = tiny_recipe.network
    with Loader(tiny_data, 0) as loader:
        plain = Speed.measure(tiny_recipe, loader, World())
        twice = Speed.measure(tiny_recipe, loader, World(), recompute=True)
        assert plain.flops == 3 * network_cost(tiny_spec).flops
        assert twice.flops == 4 * network_cost(tiny_spec).flops
        assert plain.peak == twice.peak > 0
        row = plain.row(images=100, seconds=2.0)
        assert row["flops_per_second"] == pytest.approx(50 * plain.flops)
        assert row["peak_share"] == pytest.approx(50 * plain.flops / plain.peak)
        assert row["data_wait_share"] == 0


def test_a_peak_that_a_busy_machine_reached_is_measured_again(tiny_data, monkeypatch):
    rates, asked = [8.0, 20.0, 20.5, 99.0], []

    def peak(device, dtype, *, again):
        asked.append(again)
        return rates[len(asked) - 1]

    monkeypatch.setattr(speeds, "matrix_peak", peak)
    with Loader(tiny_data, 0) as loader:
        speed = Speed(flops=1, precision=torch.float32, loader=loader, world=World())
        assert speed.row(8, seconds=1.0)["peak_share"] == 1  # possible
        assert speed.row(16, seconds=1.0)["peak_share"] == pytest.approx(16 / 20)  # not at a peak of 8
        assert speed.row(24, seconds=1.0)["peak_share"] == pytest.approx(24 / 20.5)  # fewer products than are counted
        assert speed.row(24, seconds=1.0)["peak_share"] == pytest.approx(24 / 20.5)
    assert asked == [False, True, True]


def test_waiting_for_data_is_measured_where_it_happens(tiny_spec, tiny_data, monkeypatch):
    with Loader(tiny_data, 0) as loader:
        speed = Speed(flops=1, precision=torch.float32, loader=loader, world=World())
        read = loader._read
        monkeypatch.setattr(loader, "_read", lambda *request: (time.sleep(0.05), read(*request))[1])
        loader.fetch(0, 4)
        loader.fetch(4, 4)
        assert 0.1 <= speed.row(8, seconds=1.0)["data_wait_share"] < 1.0
        assert speed.row(8, seconds=1.0)["data_wait_share"] == 0


def test_memory_is_the_most_there_was():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(2**27)  # 512 MiB
    assert peak_memory(torch.device("cpu")) >= max(before, block.nbytes)
    del block
    assert peak_memory(torch.device("cpu")) >= 2**29
