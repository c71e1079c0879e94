"""Conditions of data: carried to the step, the same whoever reads them; declared and checked."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from unitgain import Conditions
from unitgain.arch.conditions import Image, Scalar, Tokens, Vector
from unitgain.data.dataset import ArrayDataset
from unitgain.data.loader import Loader
from unitgain.data.order import flips, indices
from unitgain.parallel import World
from unitgain.train import TrainConfig, fit
from unitgain.train.batches import Batches, dropped
from unitgain.train.declare import declared
from unitgain.train.fitting import check_data, complete

ROWS = 29


def normal(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values(**changes):
    """Of every kind; row 3 has no age, row 4 no tokens at all."""
    text = [normal(row % 4, 6, seed=row) for row in range(ROWS)]
    age = [None if row == 3 else float(row) for row in range(ROWS)]
    small = torch.randint(0, 256, (ROWS, 2, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return {"style": normal(ROWS, 5), "age": age, "small": small, "text": text, **changes}


def told(tiny_data, **changes):
    return dataclasses.replace(tiny_data, conditions=values(**changes))


def config(tiny_recipe, network, **changes):
    return TrainConfig(recipe=tiny_recipe.replace(network=network), data="tiny", **changes)


def test_names_that_data_lack_are_refused_but_by_runs_that_had_them_before(tiny_data, tiny_recipe):
    wrong = config(tiny_recipe, tiny_recipe.network, conditions=("wieght",))
    for data, text in ((tiny_data, "they have none: leave --conditions out"), (told(tiny_data), "known: age, small")):
        with pytest.raises(ValueError, match=f"have no condition 'wieght'; {text}"):
            complete(wrong, data, torch.device("cpu"))
    assert complete(wrong, tiny_data, torch.device("cpu"), saved=wrong).conditions == wrong.conditions


def test_values_come_as_networks_see_them(tiny_data):
    data = told(tiny_data)
    assert dict(data.condition_shapes) == {"style": (5,), "age": (), "small": (2, 4, 4), "text": (None, 6)}
    got, given = data.conditions_of(np.array([3, 4, 7])), values()
    assert got.label is None and len(got) == 3
    assert torch.equal(got.values["style"], given["style"][[3, 4, 7]])
    assert torch.equal(got.values["age"], torch.tensor([0.0, 4.0, 7.0]))
    assert got.masks["age"].tolist() == [False, True, True]
    assert torch.equal(got.values["small"], given["small"][[3, 4, 7]].float() / 127.5 - 1)
    assert got.values["text"].shape == (3, 3, 6)  # padded to the longest of these
    assert got.masks["text"].tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert torch.equal(got.values["text"][2], given["text"][7])
    assert all(value.dtype == torch.float32 for value in got.values.values())


def test_data_without_conditions_are_as_they_were(tiny_data):
    assert not tiny_data.condition_shapes and len(tiny_data.conditions_of(np.array([1, 2]))) == 0
    assert tiny_data.fingerprint == dataclasses.replace(tiny_data, conditions={}).fingerprint
    assert told(tiny_data).fingerprint == told(tiny_data).fingerprint
    assert (
        len({one.fingerprint for one in (tiny_data, told(tiny_data), told(tiny_data, style=normal(ROWS, 5, seed=1)))})
        == 3
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("style", normal(3, 5), "3 values for 29 rows"),
        ("style", torch.full((ROWS, 5), math.nan), "the first is row 0"),
        ("age", [math.inf if row == 9 else 1.0 for row in range(ROWS)], "row 9 holds NaN or infinite"),
        ("age", ["old"] * ROWS, "must be a number or an array"),
        ("age", [None] * ROWS, "no value in any row"),
        ("text", [normal(2, 6 + (row == 5)) for row in range(ROWS)], r"row 5 one of \[2, 7\]"),
        ("small", [normal(1 + row % 2, 4, 4) for row in range(ROWS)], "must all have one shape"),
        ("label", normal(ROWS), "meaning of its own"),
        ("My Text", normal(ROWS), "must be like age"),
    ],
)
def test_values_that_make_no_sense_are_refused(tiny_data, name, value, message):
    with pytest.raises(ValueError, match=message):
        told(tiny_data, **{name: value})


@pytest.mark.parametrize("workers", [0, 3])
def test_the_loader_brings_them_with_their_rows(tiny_data, workers):
    data, network = told(tiny_data), None
    network = declared(data, ["text", "small", "age"])
    with Loader(data, 3, flip=True, workers=workers, conditions=network) as loader:
        found = [loader.fetch(start, 7) for start in (0, 7, 14, 70)]
    for start, (stored, got) in zip((0, 7, 14, 70), found, strict=True):
        rows, mirrored = indices(start, 7, ROWS, 3), torch.from_numpy(flips(start, 7, 3))
        expected = data.conditions_of(rows)
        assert set(got.values) == {"text", "small", "age"}
        assert torch.equal(got.label, data.labels[torch.from_numpy(rows)])
        for name in ("text", "age"):
            assert torch.equal(got.values[name], expected.values[name])
            assert torch.equal(got.masks[name], expected.masks[name])
        for place in range(7):  # an image is mirrored if and only if that which it goes with is
            for whole, part in (
                (data.images[rows[place]], stored),
                (expected.values["small"][place], got.values["small"]),
            ):
                assert torch.equal(part[place], whole.flip(-1) if mirrored[place] else whole)


class Spoiled(ArrayDataset):
    """Somebody's data, with values that nobody has checked."""

    def conditions_of(self, indices):
        age = torch.tensor([math.nan if index == 5 else 1.0 for index in indices])
        return Conditions(age=age)

    @property
    def condition_shapes(self):
        return {"age": (), "size": ()}


def test_what_data_of_others_bring_is_checked_when_it_comes(tiny_data):
    data = Spoiled(name="theirs", images=tiny_data.images)
    age = Scalar(name="age")
    with Loader(data, 0, conditions=[age]) as loader, pytest.raises(ValueError, match="'age' of row 5 holds NaN"):
        loader.fetch(0, ROWS)
    with (
        Loader(data, 0, conditions=[age, Scalar(name="size")]) as loader,
        pytest.raises(ValueError, match="values of size"),
    ):
        loader.fetch(0, 1)


def test_dropout_is_a_function_of_the_image_and_has_its_share():
    conditions = (
        Scalar(name="age", dropout=0.2),
        Vector(name="style", dim=2, dropout=0.2),
        Image(name="a", channels=1),
    )
    whole = dropped(conditions, 0, 40_000, 7)
    part = dropped(conditions, 1000, 50, 7)
    assert set(whole) == {"age", "style"}
    for name, gone in whole.items():
        assert np.array_equal(gone[1000:1050], part[name])
        assert abs(gone.mean() - 0.2) < 0.01
    both = (whole["age"] & whole["style"]).mean()
    assert abs(both - (0.5 * 0.2 + 0.5 * 0.04)) < 0.01  # together half of the time, else each by itself
    assert not np.array_equal(whole["age"], dropped(conditions, 0, 40_000, 8)["age"])


def test_steps_get_them_whatever_the_number_of_processes(tiny_data, tiny_recipe):
    data = told(tiny_data)
    network = fit(tiny_recipe.network, data)
    own = config(tiny_recipe, network, microbatch=2)

    def of(world):
        batches = Batches(own, data, world)
        with batches.loader:
            return {
                (nimg, i * world.size + world.rank): one
                for nimg in (0, 8, 400)
                for i, one in enumerate(batches.at(nimg))
            }

    alone, pair = of(World()), {}
    for rank in range(2):
        pair |= of(World(rank=rank, size=2))
    seen = {name: 0 for name in data.condition_shapes}
    for key, one in alone.items():
        for name, value in one.label.values.items():
            assert torch.equal(value, pair[key].label.values[name])
            assert torch.equal(one.label.masks[name], pair[key].label.masks[name])
        for name in seen:
            seen[name] += int((~one.label.masks[name]).any())
    assert all(seen.values())  # each is dropped somewhere


def test_data_say_what_a_network_is_told(tiny_data, tiny_recipe):
    data = told(tiny_data)
    network = fit(tiny_recipe.network, data)
    style, age, small, text = network.conditions
    assert (style, text) == (Vector(name="style", dim=5, dropout=0.1), Tokens(name="text", dim=6, dropout=0.1))
    ages = np.array([row for row in range(ROWS) if row != 3], float)
    assert age == Scalar(name="age", dropout=0.1, scale=float(f"{ages.std():.3g}"))
    seen = values()["small"].double() / 127.5 - 1
    std = float(f"{seen.std(correction=0):.3g}")
    assert small == Image(name="small", dropout=0.1, channels=2, mean=small.mean, std=std)
    assert abs(small.mean - seen.mean()) < 1e-3 * std
    check_data(config(tiny_recipe, network), data)
    assert fit(network, data, ["text"]).conditions == (text,)
    own = dataclasses.replace(age, scale=3.0)
    assert fit(network.replace(conditions=(own,)), data, ["age"]).conditions == (own,)  # what it says is kept
    assert not fit(network, tiny_data).conditions
    with pytest.raises(ValueError, match="did you mean 'style'"):
        fit(tiny_recipe.network, data, ["stile"])
    with pytest.raises(ValueError, match="none of: an amount"):
        fit(tiny_recipe.network, told(tiny_data, style=normal(ROWS, 1)))


@pytest.mark.parametrize(
    ("conditions", "names", "message"),
    [
        ((Scalar(name="weight"),), None, "have no condition 'weight', which the network is told"),
        ((Vector(name="style", dim=4),), None, r"'style' are \[N, 5\], the network's vector takes \[N, 4\]"),
        ((Scalar(name="style"),), None, "the network's scalar"),
        ((Image(name="small", channels=3),), None, r"'small' are \[N, 2, 4, 4\]"),
        ((Tokens(name="text", dim=5),), None, r"'text' are \[N, T, 6\]"),
        ((Scalar(name="age"),), None, "have style, small, text, which the network does not know"),
        ((Scalar(name="age"),), ("age", "text"), "which the network does not know"),
    ],
)
def test_networks_and_data_that_differ_are_refused(tiny_data, tiny_recipe, conditions, names, message):
    network = tiny_recipe.network.replace(conditions=conditions)
    with pytest.raises(ValueError, match=message):
        check_data(config(tiny_recipe, network, conditions=names), told(tiny_data))


def test_what_is_left_out_on_purpose_is_no_error(tiny_data, tiny_recipe):
    network = fit(tiny_recipe.network, told(tiny_data), ["age"])
    check_data(config(tiny_recipe, network, conditions=("age",)), told(tiny_data))


def test_a_larger_image_than_the_images_is_refused(tiny_data, tiny_recipe):
    network = tiny_recipe.network.replace(conditions=(Image(name="large", channels=1),))
    data = dataclasses.replace(tiny_data, conditions={"large": torch.zeros(ROWS, 1, 9, 8)})
    with pytest.raises(ValueError, match=re.escape("no side longer than that of x for images of 8x8")):
        check_data(config(tiny_recipe, network), data)
