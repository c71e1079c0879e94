"""Losses as values of a recipe: their JSON, other distributions, labels that are dropped."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from unitgain.data.encoder import PixelEncoder
from unitgain.loss import DenoisingLoss, EDMLoss, RecordedLoss
from unitgain.parallel import World
from unitgain.recipe import Recipe
from unitgain.serial import from_dict, to_dict
from unitgain.train import TrainConfig
from unitgain.train.batches import Batches
from unitgain.train.fitting import data_of
from unitgain.train.levels import BINS, NoiseLevels


@dataclass(frozen=True, kw_only=True)
class LogUniform(DenoisingLoss):
    low: float
    high: float

    def sigma(self, normal):
        return self.low * (self.high / self.low) ** torch.special.ndtr(normal)


def test_another_distribution_draws_what_it_says_and_fills_the_bins_alike():
    sigma, noise = LogUniform(low=0.1, high=10.0).draw(torch.zeros(20_000, 1, 1, 1))
    places = (sigma.log() - math.log(0.1)) / math.log(100)  # uniform on [0, 1]
    assert noise.shape == (20_000, 1, 1, 1)
    assert (places.mean().item(), places.var().item()) == pytest.approx((0.5, 1 / 12), abs=0.005)
    counts = []
    for loss in (EDMLoss(-0.8, 1.0), LogUniform(low=0.1, high=10.0)):
        levels = NoiseLevels(loss)
        sigma, _ = loss.draw(torch.zeros(20_000, 1, 1, 1), torch.Generator().manual_seed(0))
        counts.append(torch.bucketize(sigma.log(), levels.edges).bincount(minlength=BINS))
    assert (counts[0] - counts[1]).abs().max() <= 2  # rounding at the edges


def test_a_recipe_is_read_as_it_was_written(tiny_recipe):
    assert to_dict(tiny_recipe)["loss"] == {"P_mean": -0.8, "P_std": 1.0}
    assert from_dict(Recipe, to_dict(tiny_recipe)) == tiny_recipe
    own = tiny_recipe.replace(loss=LogUniform(low=0.1, high=10.0))
    found = from_dict(Recipe, to_dict(own))
    assert isinstance(found.loss, RecordedLoss) and to_dict(found) == to_dict(own)
    with pytest.raises(ValueError, match="loss of its own, LogUniform"):
        found.loss.draw(torch.zeros(1, 1, 1, 1))
    with pytest.raises(ValueError, match="unknown field 'P_men'; did you mean 'P_mean'"):
        from_dict(Recipe, to_dict(tiny_recipe) | {"loss": {"P_men": 0.0, "P_std": 1.0}})


@dataclass(frozen=True)
class Plain(EDMLoss):
    pass


@dataclass(frozen=True)
class Further(EDMLoss):
    power: float = 2.0


@pytest.mark.parametrize(
    ("loss", "written"),
    [(Plain(-0.8, 1.0), {"class": "Plain"}), (Further(-0.8, 1.0), {"class": "Further", "power": 2.0})],
)
def test_a_subclass_of_the_papers_loss_is_not_taken_for_it(tiny_recipe, loss, written):
    own = to_dict(tiny_recipe.replace(loss=loss))
    assert own["loss"] == {"P_mean": -0.8, "P_std": 1.0} | written
    assert isinstance(from_dict(Recipe, own).loss, RecordedLoss)


class NoDataclass(DenoisingLoss):
    def sigma(self, normal):
        return normal.exp()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label_dropout": 1.0}, "label_dropout = 1.0: must be in"),
        ({"loss": NoDataclass()}, "NoDataclass is no dataclass"),
    ],
)
def test_what_does_not_go_together_is_said(tiny_recipe, change, said):
    with pytest.raises(ValueError, match=said):
        to_dict(tiny_recipe.replace(**change))
    with pytest.raises(ValueError, match="needs a network with labels"):
        tiny_recipe.replace(label_dropout=0.1, network=tiny_recipe.network.replace(label_dim=0))


def labels_of(recipe, data, microbatch, rank=0, size=1, nimg=0):
    config = TrainConfig(recipe=recipe, data="tiny", microbatch=microbatch)
    batches = Batches(config, data, World(rank, size))
    found = [part.label for part in batches.at(nimg)]
    batches.loader.close()
    return found


def test_labels_are_dropped_by_the_number_of_the_image(tiny_recipe, tiny_data):
    recipe = tiny_recipe.replace(batch=512, duration=512, label_dropout=0.25)
    (whole,) = labels_of(recipe, tiny_data, None)
    assert whole.shape == (512, 3) and whole.sum().item() / 512 == pytest.approx(0.75, abs=0.06)
    assert torch.equal(torch.cat(labels_of(recipe, tiny_data, 64)), whole)
    halves = [torch.cat(labels_of(recipe, tiny_data, 256, rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat(halves), whole)
    (later,) = labels_of(recipe.replace(batch=256, duration=512), tiny_data, None, nimg=256)
    assert torch.equal(later, whole[256:])
    (plain,) = labels_of(recipe.replace(label_dropout=0.0), tiny_data, None)
    stays = whole.any(1)
    assert plain.dtype == torch.int64 and torch.equal(whole[stays].argmax(1), plain[stays])


def test_measured_normalization_is_for_data_in_python_too(tiny_recipe, tiny_data):
    config = TrainConfig(recipe=tiny_recipe, data="tiny", normalize="measured")
    images = data_of(config, tiny_data).encode(tiny_data.images)
    assert (images.mean().item(), images.std().item()) == pytest.approx((0, 0.5), abs=1e-3)
    assert data_of(replace(config, normalize="official"), tiny_data).encoder == PixelEncoder()
    floating = replace(tiny_data, images=tiny_data.images / 127.5 - 1)
    with pytest.raises(ValueError, match="only 8-bit pixels"):
        data_of(config, floating)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_mean_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"P_mean = .*must be finite"):
        EDMLoss(P_mean=value, P_std=1.0)
