"""Order, encoder, data sets and pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unitgain.data.dataset import ArrayDataset
from unitgain.data.digits import digits
from unitgain.data.encoder import PixelEncoder
from unitgain.data.images import grid, to_image
from unitgain.data.order import derive, indices


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**63), st.integers(0, 50))
def test_every_epoch_is_a_permutation(size, seed, epoch):
    order = indices(epoch * size, size, size, seed)
    assert sorted(order.tolist()) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32), st.integers(0, 1000), st.integers(0, 200), st.integers(0, 200))
def test_any_part_is_computable_alone(size, seed, start, first, second):
    whole = indices(start, first + second, size, seed)
    parts = [indices(start, first, size, seed), indices(start + first, second, size, seed)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_epochs_and_seeds_have_orders_of_their_own():
    size = 1797
    orders = [tuple(indices(epoch * size, size, size, seed)) for epoch in range(3) for seed in range(3)]
    assert len(set(orders)) == 9


def test_order_is_even():
    # Mean position of each index over many epochs: uniform on 0 ... n-1, so near (n-1)/2 within a few standard errors.
    size, epochs = 101, 400
    order = indices(0, size * epochs, size, seed=3).reshape(epochs, size)
    positions = np.argsort(order, axis=1).mean(axis=0)
    error = np.sqrt((size**2 - 1) / 12 / epochs)
    assert np.abs(positions - (size - 1) / 2).max() < 4.5 * error
    neighbours = (np.diff(order, axis=1) == 1).mean()  # 1/n by chance
    assert neighbours == pytest.approx(1 / size, rel=0.25)


@pytest.mark.parametrize("arguments", [(0, 1, 0, 0), (-1, 1, 5, 0), (0, -1, 5, 0)])
def test_order_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="order of data needs"):
        indices(*arguments)


def test_derived_seeds_differ_and_repeat():
    seeds = {derive(seed, nimg, index) for seed in range(5) for nimg in range(0, 640, 64) for index in range(4)}
    assert len(seeds) == 5 * 10 * 4
    assert derive(1, 2) == derive(1, 2) != derive(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "encoder", [PixelEncoder(), PixelEncoder(mean=77.85, std=95.85), PixelEncoder(mean=3.0, std=1.0)]
)
def test_every_pixel_value_comes_back(encoder):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(encoder.decode(encoder.encode(pixels)), pixels)


def test_default_encoder_is_the_official_convention():
    encoder = PixelEncoder()
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    torch.testing.assert_close(encoder.encode(pixels), pixels / 127.5 - 1)
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 9.0]).reshape(1, 1, 1, 6)
    expected = (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
    assert torch.equal(encoder.decode(x), expected)


def test_digits_are_whole_labelled_and_standardized():
    data = digits()
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.min() == 0
    assert data.images.max() == 255
    assert data.label_dim == 10
    assert torch.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    images, labels = data.batch(np.arange(1797))
    assert images.mean().abs() < 1e-6
    assert images.std(correction=0).item() == pytest.approx(0.5, abs=1e-6)
    assert torch.equal(labels, data.labels)


def test_nan_in_the_data_names_the_image():
    images = torch.zeros(5, 1, 8, 8)
    images[3, 0, 2, 2] = float("nan")
    images[4, 0, 0, 0] = float("inf")
    with pytest.raises(
        ValueError, match=r"data broken: 2 of 5 images hold NaN or infinite values, the first is image 3"
    ):
        ArrayDataset(name="broken", images=images)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"images": torch.zeros(0, 1, 8, 8)}, "N >= 1"),
        ({"images": torch.zeros(4, 8)}, r"\[N, C, H, W\]"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.int32)}, "uint8 or floating"),
        ({"labels": torch.tensor([0, 2]), "classes": ("a", "b")}, "image 1 has label 2, but there are 2 classes"),
        ({"labels": torch.tensor([0, -1]), "classes": ("a", "b")}, "image 1 has label -1"),
        ({"labels": torch.tensor([0]), "classes": ("a",)}, "int64"),
        ({"labels": torch.tensor([0, 0])}, "names of their classes"),
    ],
)
def test_data_that_do_not_fit_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        ArrayDataset(**{"name": "x", "images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), **values})


def test_constant_images_cannot_be_standardized():
    with pytest.raises(ValueError, match="all pixels of the data are equal"):
        PixelEncoder.measure(torch.full((2, 1, 4, 4), 7, dtype=torch.uint8))


def test_grid_and_png(tmp_path):
    pixels = torch.stack([torch.full((3, 40, 40), value, dtype=torch.uint8) for value in (0, 60, 120)])
    picture = grid(pixels, columns=2)
    assert picture.size == (2 * 41 + 1, 2 * 41 + 1)
    assert picture.getpixel((20, 20)) == (0, 0, 0)
    assert picture.getpixel((61, 20)) == (60, 60, 60)
    assert picture.getpixel((20, 61)) == (120, 120, 120)
    assert picture.getpixel((61, 61)) == (255, 255, 255)
    assert grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)).size == (8 * 19, 8 * 19)  # small ones are enlarged
    to_image(pixels[1]).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.full((40, 40, 3), 60))
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        to_image(torch.zeros(4, 8, 8, dtype=torch.uint8)).save(tmp_path / "b.png")
