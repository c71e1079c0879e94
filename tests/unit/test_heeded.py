"""Rows drawn with their conditions, with another's and with none: what is told to whom."""

import pytest
import torch

import unitgain
from unitgain import Conditions
from unitgain.draw import DrawSettings
from unitgain.evaluate.heeded import draw_heeded

FAST = DrawSettings(steps=2)
ROWS = [3, 5, 7, 8, 11]  # in the data; an odd number, so that half-way around is no exchange


def drawn(denoiser, labels, conditions):
    seeds = range(len(labels))
    return unitgain.sample_pixels(denoiser, seeds, label=labels, conditions=conditions, settings=FAST)


def test_each_is_told_its_own_anothers_and_nothing(told_denoiser, told):
    others = [7, 8, 11, 3, 5]
    labels = told.labels[ROWS].tolist()
    got = draw_heeded(told_denoiser, told, ROWS, settings=FAST, batch=2)
    assert list(got) == ["right", "wrong", "none"]
    assert torch.equal(got["right"], drawn(told_denoiser, labels, told.conditions_of(torch.tensor(ROWS).numpy())))
    assert torch.equal(got["wrong"], drawn(told_denoiser, labels, told.conditions_of(torch.tensor(others).numpy())))
    assert torch.equal(got["none"], drawn(told_denoiser, labels, None))
    assert not torch.equal(got["right"], got["wrong"]) and not torch.equal(got["right"], got["none"])


def test_conditions_that_are_not_named_stay_right(told_denoiser, told):
    own = told.conditions_of(torch.tensor(ROWS).numpy())
    others = told.conditions_of(torch.tensor([7, 8, 11, 3, 5]).numpy())
    got = draw_heeded(told_denoiser, told, ROWS, names=["style"], settings=FAST)
    labels = told.labels[ROWS].tolist()
    mixed = Conditions(masks=own.masks, style=others.values["style"], text=own.values["text"])
    assert torch.equal(got["wrong"], drawn(told_denoiser, labels, mixed))
    assert torch.equal(got["none"], drawn(told_denoiser, labels, own.only(["text"])))


def test_settings_do_not_overrule_the_data(told_denoiser, told):
    settings = FAST.replace(label=1, conditions="none")
    expected = draw_heeded(told_denoiser, told, ROWS, settings=FAST)
    for name, samples in draw_heeded(told_denoiser, told, ROWS, settings=settings).items():
        assert torch.equal(samples, expected[name])


def test_what_does_not_fit_is_said(told_denoiser, told, tiny_data):
    with pytest.raises(ValueError, match="1 rows: the wrong conditions are those of other rows"):
        draw_heeded(told_denoiser, told, [3])
    with pytest.raises(ValueError, match="no row 29, only 0 to 28"):
        draw_heeded(told_denoiser, told, [3, 29])
    with pytest.raises(ValueError, match="no condition 'styles' that data and network have"):
        draw_heeded(told_denoiser, told, ROWS, names=["styles"])
    with pytest.raises(ValueError, match="have no conditions"):
        draw_heeded(told_denoiser, tiny_data, ROWS)
