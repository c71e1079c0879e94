"""Classes by name and number: what is chosen, what is refused, and that names reach all who draw."""

import json
import re
import zipfile

import numpy as np
import pytest
import torch
from conftest import trained
from PIL import Image

from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.classes import LONGEST, SHOWN, Classes
from unitgain.data import Fit, PreparedDataset, prepare_data
from unitgain.data.captions import captioned_grid
from unitgain.data.images import grid
from unitgain.denoiser import classes_of
from unitgain.draw import DrawSettings, Network, write_images
from unitgain.draw.sheet import draw_sheet
from unitgain.guide import Guided
from unitgain.hub import load
from unitgain.infer import prepare
from unitgain.sample import generate, sigma_grid

KINDS = Classes(5, ("Flags", "food", "t-shirt", "tench, Tinca tinca", "é"))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("food", (1,)),
        ("1", (1,)),
        ("0,2,1", (0, 2, 1)),
        ("0-4", (0, 1, 2, 3, 4)),
        ("flags, 3", (0, 3)),
        ("Flags-t-shirt", (0, 1, 2)),
        ("t-shirt-4", (2, 3, 4)),
        ("tench, Tinca tinca", (3,)),
        ('"tench, Tinca tinca",food', (3, 1)),
        ("e\u0301,0", (4, 0)),
        ("ALL", (0, 1, 2, 3, 4)),
    ],
)
def test_text_names_classes(text, numbers):
    assert KINDS.parse(text) == numbers


def test_names_go_before_numbers_and_exact_ones_before_others():
    numbers = Classes(3, ("7", "2", "10"))
    assert [numbers.number(which) for which in ("2", 2, "7", "10", "0")] == [1, 2, 0, 2, 0]
    assert numbers.parse("7-10") == (0, 1, 2)
    assert Classes(2, ("a", "A")).numbers(["A", "a"]) == [1, 0]
    assert Classes(2, ("all", "b")).parse("all") == (0,)


@pytest.mark.parametrize(
    "names",
    [
        None,
        ("a", "b", "c"),
        tuple(map(str, range(1, 11))),
        ("1", "1", "0", "02", "2"),
        ("1", '5" disk, old', "3", " 1", "-4", "a\nb", "5"),
        ("tench, Tinca tinca", "0", "1-0", "all", "3"),
    ],
)
def test_classes_as_text_are_read_as_the_same_classes(names):
    classes = Classes(len(names or range(12)), names)
    numbers = tuple(range(classes.count))
    assert classes.parse(classes.text(numbers)) == numbers
    for number in numbers:
        assert classes.parse(classes.text([number])) == (number,)
        assert classes.number(classes.spelled(number, classes.label(number))) == number


def test_classes_as_text_are_numbers_unless_others_are_called_so():
    assert KINDS.text((0, 3)) == "0,3"
    assert Classes(10, tuple(map(str, range(1, 11)))).text((0, 2)) == "0,3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flaps", "no class 'flaps' (did you mean 'Flags'?): the network knows"),
        ("shirt", "did you mean 't-shirt'?"),
        ("xyz", "0 Flags, 1 food"),
        ("5", "label 5 is out of range: the network knows the classes 0 to 4"),
        ("3-1", "ends before it begins"),
        ("food,1", "name 'food' twice"),
        ("0-9", "label 9 is out of range"),
        ("", "no class"),
        ("1,,2", "no class"),
        ('"food', "cannot read the classes"),
        ("-1", "no class '-1'"),
    ],
)
def test_what_names_no_class_is_refused_with_those_there_are(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        KINDS.parse(text)


def test_one_name_of_two_classes_asks_for_a_number():
    with pytest.raises(ValueError, match=r"classes 0, 2 are all called 'crane': give a number"):
        Classes(3, ("crane", "b", "crane")).number("crane")


def test_without_names_numbers_remain():
    assert Classes(3).number("2") == 2 and Classes(None).number(10**6) == 10**6
    for classes, words in (Classes(3), "not their names"), (Classes(0), "unconditional"), (Classes(None), "a number"):
        with pytest.raises(ValueError, match=words):
            classes.number("flags")
    with pytest.raises(ValueError, match="label 0 is out of range: the network is unconditional"):
        Classes(0).parse("0")


def test_names_are_shown_on_one_line_and_cut_short():
    hostile = Classes(2, ("\x1b[31mred\n<b>", "x" * LONGEST))
    assert "\x1b" not in hostile.label(0) and "\n" not in hostile.label(0)
    assert len(hostile.label(1)) == SHOWN
    with pytest.raises(ValueError) as caught:  # its text is looked at below
        hostile.number("\x1b[2J" + "y" * 5000)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="1,001 characters"):
        Classes(1, ("x" * (LONGEST + 1),))
    with pytest.raises(ValueError, match="2 names of classes, for 3"):
        Classes(3, ("a", "b"))


@pytest.fixture
def denoiser(tiny_spec):
    denoiser = trained(tiny_spec).requires_grad_(False)
    denoiser.classes = ("cat", "dog", "2")
    return denoiser


def header(spec, **changes):
    raw = {"kind": "raw"}
    return SnapshotHeader(network=spec, sigma_data=0.5, nimg=8, profile=raw, recipe="tiny", encoder={}, **changes)


def test_a_name_draws_what_its_number_draws(denoiser):
    def drawn(network, label):
        parts = generate(network, [3, 4], sigma_grid(2), label=label)
        return next((labels.tolist(), images) for _, labels, images in parts)

    for network in (denoiser, prepare(denoiser), Guided(denoiser, None, 1.5)):
        (labels, images), (numbers, same) = drawn(network, "dog"), drawn(network, 1)
        assert labels == numbers == [1, 1] and torch.equal(images, same)
        assert drawn(network, ["dog", 2])[0] == [1, 2]
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        drawn(denoiser, "dogg")


def test_a_snapshot_brings_names_and_no_other_number_of_them(denoiser, tmp_path):
    spec, state = denoiser.spec, denoiser.state_dict()
    write_snapshot(tmp_path / "a.safetensors", header(spec, classes=denoiser.classes), state)
    assert load(tmp_path / "a.safetensors").classes == ("cat", "dog", "2")
    assert classes_of(prepare(load(tmp_path / "a.safetensors"))).parse("dog,2") == (1, 2)
    with pytest.raises(ValueError, match="2 names of classes, for 3"):
        header(spec, classes=("cat", "dog"))


def test_seeds_get_several_classes_in_turn(denoiser, tmp_path):
    network = Network(name="n", denoiser=denoiser, record={"sha256": "0" * 64})
    settings = DrawSettings(steps=1, label=("2", "cat"))
    write_images(network, None, settings, [0, 1, 3], tmp_path / "some")
    write_images(network, None, settings, range(4), tmp_path / "some")
    manifest = json.loads((tmp_path / "some" / "manifest.json").read_text())
    assert [entry["class"] for entry in manifest["images"]] == [2, 0, 2, 0]
    assert manifest["settings"]["class"] == [2, 0]
    with pytest.raises(ValueError, match="no class 'cow'"):
        write_images(network, None, settings.replace(label="cow"), [0], tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def snapshot(denoiser, tmp_path):
    path = tmp_path / "00000008-raw.safetensors"
    write_snapshot(path, header(denoiser.spec, classes=denoiser.classes), denoiser.state_dict())
    return path


QUICK = ("--steps", "1", "--device", "cpu")


def test_the_command_takes_names_and_the_manifest_has_them(snapshot, tmp_path, call):
    call("sample", snapshot, "--class", "dog,cat", "--per-class", "2", "--grid", "--out", tmp_path / "out", *QUICK)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["classes"] == ["cat", "dog", "2"]
    assert [(entry["seed"], entry["class"]) for entry in manifest["images"]] == [(0, 1), (1, 0), (2, 1), (3, 0)]
    call("sample", snapshot, "--per-class", "1", "--out", tmp_path / "all.zip", *QUICK)
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        about = json.loads(archive.read("dataset.json"))
    assert about["classes"] == ["cat", "dog", "2"] and [label for _, label in about["labels"]] == [0, 1, 2]
    for drawn in ("out", "all.zip"):
        call("data", "prepare", tmp_path / drawn, tmp_path / f"{drawn}-data", "--resolution", "8")
        assert PreparedDataset(tmp_path / f"{drawn}-data").classes == ("cat", "dog", "2")


def test_so_many_per_class_of_a_network_without_classes(denoiser, tmp_path, call):
    """Commands for pictures of one's own are the same with classes and without."""
    plain = trained(denoiser.spec.replace(label_dim=0))
    write_snapshot(tmp_path / "00000008-raw.safetensors", header(plain.spec), plain.state_dict())
    out = tmp_path / "out"
    said = call("sample", tmp_path / "00000008-raw.safetensors", "--per-class", "3", "--grid", "--out", out, *QUICK)
    assert "knows no classes: 3 images in all" in " ".join(said.err.split())
    assert [entry["seed"] for entry in json.loads((out / "manifest.json").read_text())["images"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "dogg"], "did you mean 'dog'"),
        (["--class", "3"], "0 cat, 1 dog, 2 2"),
        (["--per-class", "0"], "must be at least 1"),
        (["--per-class", "1", "--seeds", "5"], "leave one out"),
    ],
)
def test_the_command_says_which_classes_there_are(snapshot, tmp_path, call, options, words):
    assert words in call("sample", snapshot, "--out", tmp_path / "out", *options, *QUICK, code=2).err
    assert not (tmp_path / "out").exists()


def test_a_sheet_has_a_row_for_each_class_or_a_caption_below_each():
    pixels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8) + torch.arange(6, dtype=torch.uint8)[:, None, None, None]
    images, settings = dict(enumerate(pixels)), DrawSettings(label=(1, 0))
    classes = Classes(2, ("long name of a class", "b"))

    def sheet(labels, settings=settings):
        return np.asarray(draw_sheet(images, dict(enumerate(labels)), None, settings, classes))

    step, row = 50, sheet([1, 0] * 3)
    assert row.shape[0] == 2 * step + 2
    seen = [row[2 + place // 3 * step, -(3 - place % 3) * step, 0] for place in range(6)]
    assert seen == [0, 2, 4, 1, 3, 5]
    assert (row[:step, : -3 * step] < 128).sum() < (row[step:, : -3 * step] < 128).sum()  # the longer name is below
    below = sheet([0, 1, 1, 0, 0, 1], DrawSettings())
    assert below.shape == (2 * 65 + 2, 3 * step + 2, 3)
    assert not np.array_equal(below, sheet([1, 1, 1, 0, 0, 1], DrawSettings()))
    plain = sheet([None] * 6, DrawSettings())
    assert plain.ndim == 2 and plain.shape == np.asarray(grid(pixels)).shape


def test_captions_are_as_long_as_there_is_room(tmp_path):
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    names = ["a" * 200, "b", "b", "c"]
    wide, cut = (np.asarray(captioned_grid(pixels, [name, *names[1:]], 2)) for name in (names[0], "aaaa..."))
    edge = 50
    assert wide.shape == cut.shape and (wide[:, edge:] == cut[:, edge:]).all()
    assert (wide[50:67, :edge] < 128).any()


def test_captions_have_the_letters_of_other_alphabets():
    pixels = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    for one, other in (("ä", "ö"), ("Ω", "Σ"), ("ж", "щ"), ("ł", "ř")):  # boxes would be the same
        assert not np.array_equal(*(np.asarray(captioned_grid(pixels, [name], 1)) for name in (one, other)))


def test_captions_of_data_are_no_names(tmp_path):
    (tmp_path / "labels.csv").write_text(f"file,label\n0.png,{'x' * (LONGEST + 1)}\n1.png,b\n")
    for number in range(2):
        Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match="1,001 characters"):
        prepare_data(str(tmp_path), tmp_path / "data", Fit(resolution=8))
