"""Data sets of PyTorch as data of a run: the same items, checked, in the same order."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from unitgain.arch.conditions import Image, Tokens
from unitgain.data import from_torch
from unitgain.data.dataset import ArrayDataset
from unitgain.data.encoder import ArrayEncoder, PixelEncoder
from unitgain.data.loader import Loader
from unitgain.data.named import normalized
from unitgain.train.declare import declared
from unitgain.train.ladder import normalization

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
    assert from_torch(TensorDataset(IMAGES)).fingerprint == plain.fingerprint
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
        ([(IMAGES[0], 5)], {"classes": ("a",)}, "item 0 has label 5, but classes are numbered 0 to 0, or named .'a'"),
        ([{"image": IMAGES[0]}], {"conditions": ("vector",)}, "item 0 has no 'vector', but image"),
        ([{"img": IMAGES[0]}], {}, "item 0 has no 'image', but img"),
        ([{"image": IMAGES[0], "y": 1}], {"label": "Y"}, "item 0 has no 'Y', but image, y"),
        ([{"image": IMAGES[0], "y": None}], {"label": "y"}, "label 'y', and no item has a class"),
        ([(IMAGES[0], 1)], {"label": "y"}, "expected a dict with 'y'"),
        (list(IMAGES), {"classes": ("a", "b")}, "classes a, b, and no item has a class"),
        ([(IMAGES[0], -1)], {}, "item 0 has label -1, but classes are numbered from 0"),
        ([(IMAGES[0], 0)], {"classes": ("a", "a")}, "classes 0 and 1 are both called 'a'"),
        ([(IMAGES[0], 0)], {"classes": "ab"}, r"give a list of names, \['ab'\]"),
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


def items_of(count=6, **values):
    """Dicts of a signal and of conditions, one function of the row each."""
    return [{"image": IMAGES[row], **{name: value(row) for name, value in values.items()}} for row in range(count)]


def test_conditions_have_names_and_kinds_of_their_own():
    """Of signals, equal numbers of tokens could be a signal of channels: what is said counts."""
    equal = items_of(words=lambda row: torch.full((3, 4), float(row)), flat=lambda row: IMAGES[row, 0, :6])
    shape = {"words": (None, 4), "low": (1, 6)}
    data = from_torch(equal, conditions=("words:tokens", "low=flat:image"))
    assert dict(data.condition_shapes) == shape
    words, low = declared(data)
    assert words == Tokens(name="words", dim=4, dropout=0.1) and isinstance(low, Image) and low.channels == 1
    told = data.conditions_of(np.array([2, 0]))
    assert told.values["words"][0].eq(2).all() and told.masks["words"].all()
    assert torch.equal(told.values["low"][0, 0], IMAGES[2, 0, :6])
    assert isinstance(declared(from_torch(equal, conditions=("words",)))[0], Image)
    values = {"words:tokens": torch.zeros(9, 3, 4), "low:image": IMAGES[:, 0, :6]}
    memory = ArrayDataset(name="memory", images=IMAGES, conditions=values)
    assert dict(memory.condition_shapes) == shape and memory.conditions_of(np.array([1])).masks["words"].all()


def test_tokens_may_be_lists_of_any_length():
    """Of lists, arrays or tensors; none of them, too."""
    makers = [list, np.array, torch.tensor]
    words = lambda row: [makers[row % 3]([float(row), 1.0]) for _ in range(row % 4)]  # noqa: E731
    data = from_torch(items_of(words=words), conditions=("words",))
    assert dict(data.condition_shapes) == {"words": (None, 2)}
    told = data.conditions_of(np.arange(6))
    assert told.masks["words"].sum(1).tolist() == [0, 1, 2, 3, 0, 1] and told.values["words"][3, 2, 0] == 3


def test_other_conditions_are_other_data():
    prints = {
        from_torch(items_of(age=lambda row, of=of: float(row % of)), conditions=("age",)).fingerprint for of in (2, 3)
    }
    assert len(prints) == 2


class Stream(IterableDataset):
    def __iter__(self):
        yield from IMAGES

    def __len__(self):
        return len(IMAGES)


@pytest.mark.parametrize("what", [Stream(), DataLoader(list(IMAGES)), iter(IMAGES), {"image": IMAGES}])
def test_what_is_no_map_style_data_set_is_named(what):
    with pytest.raises(ValueError, match=rf"{type(what).__name__} is no map-style data set"):
        from_torch(what)


@pytest.mark.parametrize(
    "options, value, why",
    [
        ({"normalize": "measure"}, 1.0, "normalize 'measure': did you mean 'measured'"),
        ({"conditions": "age"}, 1.0, r"give a list of keys, \['age'\]"),
        ({"conditions": ("age:number",)}, 1.0, "unknown kind 'number'"),
        ({"conditions": ("age", "age=other")}, 1.0, "two have one name"),
        ({"conditions": ("age:vector",)}, 1.0, r"values of shape \[\], which no vector of these data has"),
        ({"conditions": ("age:image",)}, torch.zeros(2, 3, 4), r"values of shape \[2, 3, 4\], which no image"),
        ({"conditions": ("age",)}, {"years": 3}, "'age', row 0 is dict: a value must be a number or an array"),
        ({"conditions": ("age",)}, "old", "'age', row 0 is str: a value must be a number"),
        ({"conditions": ("age",)}, [[1.0, 2.0], [3.0]], r"'age', row 0 is ragged, with rows of \[1, 2\] numbers"),
        ({"conditions": ("age",)}, [torch.ones(2), torch.ones(3)], r"row 0 is ragged, with rows of \[2, 3\] numbers"),
    ],
)
def test_what_is_asked_or_given_and_makes_no_sense_is_said(options, value, why):
    with pytest.raises(ValueError, match=why):
        from_torch(items_of(age=lambda _: value, other=lambda _: 1.0), **options)


def test_images_are_of_one_length():
    with pytest.raises(ValueError, match=r"values of shape \[None, 2\], which no image of these data has"):
        from_torch(items_of(words=lambda row: torch.ones(1 + row, 2)), conditions=("words:image",))


def test_numbers_of_words_are_no_tokens():
    with pytest.raises(ValueError, match=r"must all have one shape, such as \[1\]; of tokens \[T, dim\], vectors"):
        from_torch(items_of(words=lambda row: list(range(1 + row))), conditions=("words",))


UNIT = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_floating_pictures_without_negative_values_are_refused():
    """As `ToTensor` makes them: a network would see them from grey to white."""
    with pytest.raises(ValueError, match=r"torch: floating pictures from 0.00124 to 1, .*give uint8 .*x \* 2 - 1"):
        from_torch(list(UNIT))
    for values in (UNIT, UNIT * 255):
        with pytest.raises(ValueError, match="memory: floating pictures from"):
            ArrayDataset(name="memory", images=values)
    for pictures in (UNIT * 2 - 1, UNIT.mul(255).byte(), torch.zeros(2, 3, 8, 8)):
        assert from_torch(list(pictures)).encoder == PixelEncoder()
    from_torch(list(UNIT), normalize="measured")
    from_torch(list(UNIT[:, :2]))  # fields
    ArrayDataset(name="memory", images=UNIT, encoder=ArrayEncoder.identity(3))


def test_plans_measure_pixels():
    dark = from_torch(list(UNIT.mul(90).byte()))
    assert normalization(dark) == "measured" and normalization(from_torch(list(UNIT.mul(255).byte()))) == "measured"
    noise = (UNIT.sub(0.5).sign() * 64 + 127).byte()
    assert normalization(from_torch(list(noise))) == "official"
    measured = normalized(dark, "measured")
    assert measured.encoder == from_torch(list(UNIT.mul(90).byte()), normalize="measured").encoder
    assert measured.fingerprint != dark.fingerprint and dark.encoder == PixelEncoder()
    assert normalization(measured) == "official" and normalized(measured, "measured").encoder == measured.encoder


def test_classes_that_are_far_apart_are_numbered_in_order():
    data = from_torch([(IMAGES[0], 10**9), (IMAGES[1], 3)])
    assert data.classes == ("3", str(10**9)) and data.labels.tolist() == [1, 0]
