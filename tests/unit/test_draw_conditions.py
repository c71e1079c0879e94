"""Images for conditions of rows of data: which row a seed gets, and that records say so."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
import torch

import unitgain
from unitgain import Conditions
from unitgain.data.captions import captioned_grid
from unitgain.draw import DataRows, DrawSettings, Network, guide_by, write_images
from unitgain.evaluate.generated import Generated
from unitgain.serial import to_dict
from unitgain.train import fit

ROWS = 29


def normal(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network(told_denoiser):
    return Network(name="told", denoiser=told_denoiser, record={"sha256": "0" * 64})


def settings(rows, **changes):
    return DrawSettings(steps=2, conditions=rows, **changes)


def test_seeds_get_rows_in_turn_with_their_class(network, told):
    rows = DataRows(told, [3, 5, 7])
    got = rows.of([0, 4, 11], network.denoiser.spec)
    expected = told.conditions_of(np.array([3, 5, 7]))
    assert torch.equal(got.values["style"], expected.values["style"])
    assert torch.equal(got.label, told.labels[[3, 5, 7]])
    everything = DataRows(told).of([30], network.denoiser.spec)
    assert torch.equal(everything.values["style"], told.conditions["style"][[1]])
    assert len(DataRows(told)) == ROWS and len(rows) == 3


def test_classes_of_rows_go_by_their_names(network, told):
    """Networks and held-out data number them differently, or have some alone."""
    names, spec = network.denoiser.classes, network.denoiser.spec
    assert len(names) == spec.label_dim == 3
    other = dataclasses.replace(told, classes=tuple(reversed(names)))
    expected = (2 - told.labels[:6]).tolist()
    assert DataRows(other).of(range(6), spec, names).label.tolist() == expected
    drawn = unitgain.sample_images(network.denoiser, range(6), settings=settings(DataRows(other)))
    given = unitgain.sample_images(
        network.denoiser, range(6), label=expected, conditions=told.conditions_of(np.arange(6)), settings=settings(None)
    )
    for one, same in zip(drawn, given, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(same)).max() <= 1  # other padding
    some = dataclasses.replace(told, classes=names[1:], labels=told.labels.clamp(max=1))
    assert DataRows(some).of(range(6), spec, names).label.tolist() == (some.labels[:6] + 1).tolist()
    numbered = dataclasses.replace(told, classes=("0", "1", "2"))
    assert DataRows(numbered).of(range(6), spec, names).label.tolist() == told.labels[:6].tolist()


def test_classes_that_a_network_lacks_are_refused(network, told):
    first, *others = network.denoiser.classes
    other = dataclasses.replace(told, classes=("bird", *others))
    with pytest.raises(ValueError, match=rf"data tiny: there is no class 'bird'.* 0 {first}.*or name a class for all"):
        unitgain.sample_images(network.denoiser, [0], settings=settings(DataRows(other)))
    rows = [row for row in range(ROWS) if told.labels[row] > 0][:3]
    unitgain.sample_images(network.denoiser, range(3), settings=settings(DataRows(other, rows)))
    unitgain.sample_images(network.denoiser, range(3), settings=settings(DataRows(other), label=1))
    fewer = dataclasses.replace(told, classes=("0", "1"), labels=told.labels.clamp(max=1))
    with pytest.raises(ValueError, match=r"2 classes \(0, 1\), without names in common"):
        DataRows(fewer).of([0], network.denoiser.spec, network.denoiser.classes)


def test_an_image_does_not_depend_on_which_others_are_drawn(network, told):
    """Their sequences are of different lengths."""
    drawn = [
        unitgain.sample_images(network.denoiser, seeds, settings=settings(DataRows(told)), batch=batch)
        for seeds, batch in ((range(8), 8), (range(8), 3), ([5], 1))
    ]
    together, parts, alone = ([image.tobytes() for image in images] for images in drawn)
    assert together == parts and alone == [together[5]]
    assert len(set(together)) == 8


def test_a_class_that_is_named_holds(network, told):
    rows, sampled = DataRows(told, [4]), told.conditions_of(np.array([4]))
    drawn = unitgain.sample_images(network.denoiser, [9], settings=settings(rows, label="b"))
    given = unitgain.sample_images(network.denoiser, [9], label=1, conditions=sampled, settings=settings(None))
    assert drawn[0].tobytes() == given[0].tobytes()


def test_manifests_say_which_rows(tmp_path, network, told):
    out = tmp_path / "drawn"
    write_images(network, None, settings(DataRows(told, [3, 4, 5, 9])), range(5), out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["conditions"] == {"data": "tiny", "fingerprint": told.fingerprint, "rows": "3-5,9"}
    assert [entry["class"] for entry in manifest["images"]] == told.labels[[3, 4, 5, 9, 3]].tolist()
    with pytest.raises(ValueError, match=r"drawn otherwise .*rows"):
        write_images(network, None, settings(DataRows(told, [3])), range(5), out)
    moved = dataclasses.replace(told, name="./tiny")
    assert write_images(network, None, settings(DataRows(moved, [3, 4, 5, 9])), range(6), out).new == 1


def test_measuring_asks_what_a_network_is_told(network, told):
    with pytest.raises(ValueError, match=r"the network is told style, text.*--conditions none"):
        Generated(network, None, settings(None), range(4))
    (images,) = Generated(network, None, settings(DataRows(told)), range(4)).batches(range(4))
    (plain,) = Generated(network, None, settings("none"), range(4)).batches(range(4))
    assert not torch.equal(images, plain)
    source = Generated(network, None, settings(DataRows(told, [3, 4])), range(4)).source
    assert source.sampler["conditions"] == "tiny[3-4]"


def test_a_network_guides_itself_without_what_is_named(network, told):
    rows = DataRows(told)
    guided = guide_by(network, None, settings(rows, guidance=2.0, without=("text",)))
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    given = rows.of([1, 2], network.denoiser.spec)
    lacking = Conditions(given.label, style=given.values["style"])
    expected = 2 * network.denoiser(x, sigma, given) - network.denoiser(x, sigma, lacking)
    torch.testing.assert_close(guided(x, sigma, given), expected)
    with pytest.raises(ValueError, match="goes with --guide self"):
        guide_by(network, network, settings(rows, guidance=2.0, without=("text",)))
    with pytest.raises(ValueError, match="did you mean 'text'"):
        guide_by(network, None, settings(rows, guidance=2.0, without=("test",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits", "have no conditions, only images and labels"),
        ("digits[1:x]", "cannot read the rows"),
        ("digits[]", "cannot read the rows"),
        ("digits[0:9999]", "there are"),
        ("nowhere[3]", "unknown data set 'nowhere'"),
    ],
)
def test_rows_that_are_none_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        DataRows.open(text)


def test_rows_are_within_the_data_and_known_to_the_network(told, tiny_spec):
    with pytest.raises(ValueError, match="no row 29, only 0 to 28"):
        DataRows(told, [3, 29])
    with pytest.raises(ValueError, match="have style, text; the network knows none"):
        DataRows(told).of([0], tiny_spec)
    between, network = unitgain.interpolate([1, 2], frames=3), fit(tiny_spec, told)
    with pytest.raises(ValueError, match=r"points between seeds have none of: name one row for all"):
        DataRows(told).of(between, network)
    one = DataRows(told, [4]).of(between, network)
    assert torch.equal(one.values["style"], told.conditions["style"][[4, 4, 4]])


def test_mixed_rows_are_all_of_them_whatever_their_order(told):
    rows = DataRows.mixed(told).rows
    assert sorted(rows) == list(range(ROWS)) and list(rows) != sorted(rows)
    assert rows == DataRows.mixed(told).rows


def test_grids_have_the_real_picture_on_the_left(tmp_path, network, told):
    network.denoiser.encoder = to_dict(told.encoder)
    rows = DataRows(told, [3, 5])
    write_images(network, None, settings(rows), range(4), tmp_path / "drawn", contact_sheet=True, columns=4)
    drawn = unitgain.sample_pixels(network.denoiser, range(4), settings=settings(rows))
    real = told.images[[3, 5, 3, 5]]
    names = [told.classes[label] for label in told.labels[[3, 5, 3, 5]]]
    left, right = (one.repeat_interleave(8, -2).repeat_interleave(8, -1) for one in (real, drawn))  # 64 pixels wide
    gap = torch.full((4, 1, 64, 1), 255, dtype=torch.uint8)
    expected = captioned_grid(torch.cat([left, gap, right], -1), names, 4)
    with PIL.Image.open(tmp_path / "drawn" / "grid.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))
    other = dataclasses.replace(told, images=torch.zeros(ROWS, 1, 4, 4, dtype=torch.uint8))
    assert torch.equal(DataRows(other).beside(range(4), drawn), drawn)  # which are no pictures of this size


def test_rows_are_read_as_python_reads_them(told, monkeypatch):
    monkeypatch.setattr("unitgain.data.named.open_data", lambda name: told)
    read = {text: DataRows.open(f"tiny[{text}]").rows for text in ("7", "3,5, 7", "0:4", ":3", "26:", "::10")}
    assert {text: list(rows) for text, rows in read.items()} == {
        "7": [7],
        "3,5, 7": [3, 5, 7],
        "0:4": [0, 1, 2, 3],
        ":3": [0, 1, 2],
        "26:": [26, 27, 28],
        "::10": [0, 10, 20],
    }
    assert DataRows.open("tiny").rows is None
