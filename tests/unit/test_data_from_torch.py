"""Data sets of PyTorch as data of a run: the same items, checked, in the same order."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from unitgain.data import from_torch
from unitgain.data.encoder import ArrayEncoder, PixelEncoder
from unitgain.data.loader import Loader

IMAGES = torch.randn(9, 2, 12, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0])[:, None] + 5


class Dicts(Dataset):
    """Items as dicts, some without a vector."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        vector = None if index == 4 else torch.full((3,), float(index))
        return {"x": IMAGES[index], "kind": index % 3, "vector": vector, "words": torch.ones(index % 4, 2)}


def test_tensors_pairs_and_dicts():
    labels = torch.arange(9) % 3
    plain = from_torch([image for image in IMAGES], name="plain")
    pairs = from_torch(TensorDataset(IMAGES, labels))
    dicts = from_torch(Dicts(), image="x", label="kind", conditions=("vector", "words"), classes=("a", "b", "c"))
    rows = np.array([7, 0, 4])
    for data in (plain, pairs, dicts):
        assert data.shape == (2, 12) and len(data) == 9 and data.dtype == torch.float32
        assert torch.equal(data.batch(rows)[0], IMAGES[rows])
        assert torch.equal(data.encoder.decode(data.batch(rows)[0]), IMAGES[rows])
    assert plain.labels is None and plain.classes is None and not plain.condition_shapes
    assert pairs.classes == ("0", "1", "2") and pairs.batch(rows)[1].tolist() == [1, 0, 1]
    assert dicts.classes == ("a", "b", "c") and dicts.label_dim == 3
    assert dict(dicts.condition_shapes) == {"vector": (3,), "words": (None, 2)}
    told = dicts.conditions_of(rows)
    assert told.masks["vector"].tolist() == [True, True, False] and told.values["vector"][0].tolist() == [7.0] * 3
    assert told.masks["words"].sum(1).tolist() == [3, 0, 0]
    assert len({plain.fingerprint, pairs.fingerprint, dicts.fingerprint}) == 3
    assert plain.fingerprint == from_torch(list(IMAGES), name="other").fingerprint


def test_normalization():
    data = from_torch(list(IMAGES), normalize="measured")
    seen = data.batch(np.arange(9))[0]
    torch.testing.assert_close(seen.mean((0, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2), correction=0), torch.full((2,), 0.5))
    torch.testing.assert_close(data.encoder.decode(seen), IMAGES)
    pixels = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    assert from_torch(list(pixels)).encoder == PixelEncoder()
    measured = PixelEncoder.measure(pixels)
    assert from_torch(list(pixels), normalize="measured").encoder.mean == pytest.approx(measured.mean)
    assert from_torch(list(pixels), normalize="measured").encoder.std == pytest.approx(measured.std)
    whole = from_torch(list(torch.randint(-99, 99, (5, 1, 8), dtype=torch.int16)))
    assert isinstance(whole.encoder, ArrayEncoder) and whole.encoder.numbers.dtype == "int16"


def test_loaders_read_them_in_the_same_order():
    data = from_torch(TensorDataset(IMAGES, torch.arange(9)))
    with Loader(data, 3, workers=2) as loader, Loader(data, 3, workers=0) as alone:
        for start in (0, 4, 8):
            assert all(map(torch.equal, loader.fetch(start, 4), alone.fetch(start, 4)))


def test_items_are_read_once_to_look_at_them():
    read = []

    class Counting(Dicts):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    from_torch(Counting(), image="x", label="kind", conditions=("words",), normalize="measured")
    assert read == list(range(9))


def test_pixels_that_are_all_equal_teach_nothing():
    with pytest.raises(ValueError, match="all pixels of the data are equal"):
        from_torch([torch.full((1, 4, 4), 7, dtype=torch.uint8)] * 3, normalize="measured")


NAN = IMAGES.clone()
NAN[2, 0, 3] = torch.nan


@pytest.mark.parametrize(
    "items, options, why",
    [
        ([], {}, "there are no items"),
        ([IMAGES[0], IMAGES[1, :, :4]], {}, r"item 1 is torch.float32 \[2, 4\], where the first is"),
        (list(NAN), {}, "item 2 holds NaN or infinite values"),
        ([IMAGES[0].to(torch.int64)], {}, "expected uint8, int16 or floating"),
        ([torch.zeros(3)], {}, "one to three sides"),
        (["x"], {}, "item 0 is str; expected a tensor"),
        ([(IMAGES[0], 0), (IMAGES[1], 1.5)], {}, "item 1 has the class 1.5: a whole number in all items, or none"),
        ([(IMAGES[0], 0), (IMAGES[1], None)], {}, "item 1 has the class None"),
        ([(IMAGES[0], 5)], {"classes": ("a",)}, "classes 5 to 5, where 1 are named"),
        ([{"image": IMAGES[0]}], {"conditions": ("vector",)}, "item 0 has no 'vector', but image"),
        ([{"img": IMAGES[0]}], {}, "item 0 has no 'image', but img"),
        ([{"image": "a.png"}], {}, "has str for a tensor: convert it"),
        (
            [{"image": IMAGES[0], "vector": torch.zeros(2)}, {"image": IMAGES[0], "vector": torch.zeros(3)}],
            {"conditions": ("vector",)},
            "condition 'vector'",
        ),
    ],
)
def test_what_does_not_fit_is_said(items, options, why):
    with pytest.raises(ValueError, match=why):
        from_torch(items, **options)
