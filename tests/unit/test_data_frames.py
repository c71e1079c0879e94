"""Image conditions show what their pictures show: fitted as these are, at their own scale, or refused."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from pictures import encoded, picture
from PIL import Image
from samples import npy, values

from unitgain.data.fit import Fit, fit_image
from unitgain.data.manifest import Skipped
from unitgain.data.prepare import BrokenPictureError, prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sources import SourceOptions

ORIENTATION = 0x0112


def made(root, pairs, fit, kind="", on_error="fail", **options):
    """Data of pairs: the bytes of a file by its name, and likewise of its condition `told`."""
    rows = []
    for number, (file, told) in enumerate(pairs):
        row = {}
        for name, (suffix, data) in {"file": file, "told": told}.items():
            row[name] = f"{number}-{name}{suffix}"
            (root / row[name]).write_bytes(data)
        rows.append(row)
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = SourceOptions(conditions=(f"told{kind}",), **options)
    prepare_data(str(root / "pairs.jsonl"), root / "data", fit, options=options, on_error=on_error, workers=1)
    return PreparedDataset(root / "data")


def smooth(width, height):
    """A picture none of whose parts looks like another, and a smaller one of which looks like it."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([across, down, (across + down) / 2], -1)).astype(np.uint8))


def shown(data):
    """Pictures and conditions as networks see them."""
    rows = np.arange(len(data))
    return data.encode(data.rows(rows)[0]).numpy(), data.conditions_of(rows).values["told"].numpy()


def png(image, **options):
    return ".png", encoded(image, **options)


def jpeg(image, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return ".jpg", encoded(image, "JPEG", quality=95, exif=exif)


def assert_alike(pictures, told, close=0.25):
    """A condition shows what its picture shows, to about a pixel: it is like means of its values."""
    times = [side // small for side, small in zip(pictures.shape[2:], told.shape[2:], strict=True)]
    n, c, height, width = told.shape
    means = pictures.reshape(n, c, height, times[0], width, times[1]).mean((3, 5))
    inner = (..., slice(1, -1), slice(1, -1))  # at borders filters see what is not there
    assert np.abs(means[inner] - told[inner]).max() < close


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(192, 96), (96, 240), (64, 64), (50, 100), (128, 130)])
@pytest.mark.parametrize("times", [1, 2, 4])
def test_what_becomes_of_a_picture_becomes_of_its_condition(tmp_path, mode, size, times):
    small = tuple(round(side / times) for side in size)
    fit = Fit(resolution=32, fit=mode, background="gray")
    pictures, told = shown(made(tmp_path, [(png(smooth(*size)), png(smooth(*small)))], fit))
    assert told.shape == (1, 3, 32 // times, 32 // times)
    alone = fit_image(encoded(smooth(*small)), dataclasses.replace(fit, resolution=32 // times))[0]
    assert np.array_equal(np.round((told[0] + 1) * 127.5), np.asarray(alone).transpose(2, 0, 1))
    if (mode, size) != ("pad", (96, 240)):  # whose border is no whole number of pixels
        assert_alike(pictures, told)


def test_pictures_of_several_sizes_and_their_conditions(tmp_path):
    sizes = [(192, 96), (96, 240), (64, 64)]
    pairs = [(png(smooth(*size)), png(smooth(*(side // 2 for side in size)))) for size in sizes]
    pictures, told = shown(made(tmp_path, pairs, Fit(resolution=(24, 32))))
    assert told.shape == (3, 3, 12, 16)
    assert_alike(pictures, told)


def test_what_is_not_resized_is_as_it_was(tmp_path):
    small = picture(1, 4, 3)
    for resolution in (None, (6, 8)):
        (tmp_path / str(resolution)).mkdir()
        data = made(tmp_path / str(resolution), [(png(picture(0, 8, 6)), png(small))], Fit(resolution=resolution))
        told = shown(data)[1][0]
        assert np.array_equal(np.round((told + 1) * 127.5), np.asarray(small).transpose(2, 0, 1))


def test_each_is_brought_upright_by_its_own_orientation(tmp_path):
    whole, half = smooth(96, 64), smooth(48, 32)
    turned = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 2: Image.Transpose.FLIP_LEFT_RIGHT}
    pairs = [(jpeg(whole.transpose(turn), how), png(half)) for how, turn in turned.items()]
    pairs += [(png(whole), jpeg(half.transpose(turn), how)) for how, turn in turned.items()]
    pictures, told = shown(made(tmp_path, pairs, Fit(resolution=32)))
    assert told.shape == (6, 3, 16, 16)
    assert_alike(pictures, told)


def test_a_condition_that_lies_where_its_picture_stands_is_refused(tmp_path):
    with pytest.raises(BrokenPictureError, match="is 32x48 where its picture is 96x64 when it is upright: turn it"):
        made(tmp_path, [(jpeg(smooth(96, 64), 6), png(smooth(48, 32)))], Fit(resolution=None))


@pytest.mark.parametrize("channels", [2, 5])
def test_planes_of_eight_bits_are_resized_too(tmp_path, channels):
    planes = np.stack([np.asarray(smooth(48, 24))[..., number % 3] for number in range(channels)])
    pictures, told = shown(made(tmp_path, [(png(smooth(96, 48)), (".npy", npy(planes)))], Fit(resolution=32)))
    assert told.shape == (1, channels, 16, 16)
    assert_alike(pictures[:, :2], told[:, :2])


def test_transparency_depth_and_grey_become_what_they_become_of_pictures(tmp_path):
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    told = [png(Image.fromarray(grey)), png(Image.new("LA", (8, 8), (0, 0)))]
    data = made(tmp_path, [(png(picture(0, 8, 8)), one) for one in told], Fit(resolution=8, background="white"))
    seen = np.round((shown(data)[1] + 1) * 127.5)
    assert seen.shape == (2, 1, 8, 8) and np.array_equal(seen[0, 0], grey >> 8) and (seen[1] == 255).all()


REFUSED = [
    (png(smooth(64, 64)), png(smooth(128, 128)), None, "is 128x128, larger than the 64x64 of what it goes with"),
    (png(smooth(64, 32)), png(smooth(33, 33)), None, "is 33x33, larger than the 32x64 of what it goes with"),
    (png(smooth(64, 32)), png(smooth(16, 16)), 32, "is 16x16, of another shape than its picture"),
    (png(smooth(64, 64)), (".npy", npy(values((2, 16, 16)))), 32, "holds float32 numbers, which are not resized"),
    (png(smooth(64, 64)), (".npy", npy(values((2, 4, 4, 4)))), None, r"has the shape \(2, 4, 4, 4\): beside channels"),
    ((".npy", npy(values((1, 64)))), (".npy", npy(values((2, 8, 8)))), None, r"with, which is 64"),
    ((".npy", npy(values((1, 8, 8, 8)))), png(smooth(4, 4)), None, r"has the shape \(3, 4, 4\): beside channels"),
    ((".npy", npy(values((1, 32, 32)))), (".npy", npy(values((1, 8, 8)))), 22, "would be cut between its values"),
]


@pytest.mark.parametrize("file, told, resolution, why", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_fitted_is_refused_with_its_row(tmp_path, file, told, resolution, why):
    fit = Fit(resolution=resolution, layout="channels-first" if file[0] == ".npy" else None)
    with pytest.raises(BrokenPictureError, match=rf"0-file\S+ has a condition 'told' that cannot be used: it .*{why}"):
        made(tmp_path, [(file, told)], fit)
    assert not (tmp_path / "data" / "unitgain.json").exists()


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(40,), (16, 24), (8, 16, 16)])
@pytest.mark.parametrize("times", [1, 2, 4])
def test_arrays_are_cut_and_padded_at_their_own_scale(tmp_path, mode, size, times):
    """Told of means of its own values, an array is told of the means of what is left of them."""
    wanted = tuple(side - 8 if mode == "crop" or number else side + 8 for number, side in enumerate(size))
    wanted = tuple(max(side, 8) for side in wanted)
    whole = values((2, *size))
    fit = Fit(resolution=wanted, fit=mode, layout="channels-first")
    data = made(tmp_path, [((".npy", npy(whole)), (".npy", npy(means(whole, times))))], fit, ":image")
    stored, told = data.rows(np.array([0]))[0][0].numpy(), shown(data)[1][0]
    assert stored.shape[1:] == wanted
    np.testing.assert_allclose(told, means(stored, times), rtol=1e-5, atol=1e-5)


def means(array, times):
    shape = [array.shape[0], *(part for side in array.shape[1:] for part in (side // times, times))]
    return array.reshape(shape).mean(tuple(range(2, len(shape), 2)))


@pytest.mark.parametrize(("times", "lengths"), [(16, (1600, 1607, 1601, 2000)), (80, (8074, 8079, 8001))])
def test_signals_of_any_length_are_told_of_shorter_ones(tmp_path, times, lengths):
    """Of so many samples one, whether the last ones were rounded up or down."""
    pairs = []
    for number, length in enumerate(lengths):
        wave, few = values((1, length), number)[0] / 100, -(-length // times) if number % 2 else length // times
        path = tmp_path / "wave.wav"
        soundfile.write(path, wave, 8000, subtype="FLOAT")
        pairs.append(((".wav", path.read_bytes()), (".npy", npy(np.arange(few, dtype=np.float32)))))
    data = made(tmp_path, pairs, Fit(resolution=100 * times), ":image")
    assert data.shape == (1, 100 * times) and dict(data.condition_shapes) == {"told": (1, 100)}
    assert np.array_equal(shown(data)[1], np.tile(np.arange(100, dtype=np.float32), (len(pairs), 1, 1)))


def signals(*lengths):
    return [(".npy", npy(values((1, length)))) for length in lengths]


def test_by_which_factor_a_signal_is_shorter_is_not_guessed(tmp_path):
    """12 of 90 is one in 7 rounded down, and one in 8 rounded up."""
    with pytest.raises(BrokenPictureError, match="12 of 90 may be one in 7 or in 8, rounded"):
        made(tmp_path, [signals(90, 12)], Fit(resolution=56, layout="channels-first"), ":image")


@pytest.mark.parametrize(("whole", "side", "resolution", "length"), [(90, 9, 110, 11), (810, 10, 800, 10)])
def test_the_factor_is_the_exact_one_or_else_the_one_that_fits(tmp_path, whole, side, resolution, length):
    """9 of 90 is one in 10, though one in 11 could be as many; of 81 and of 80 in 810 only the latter goes into 800."""
    fit = Fit(resolution=resolution, fit="pad", layout="channels-first")
    assert made(tmp_path, [signals(whole, side)], fit, ":image").condition_shapes["told"] == (1, length)


def test_a_side_that_is_not_cut_may_have_any_factor(tmp_path):
    whole, small = values((1, 25, 16)), values((1, 13, 8), 1)
    pair = (".npy", npy(whole)), (".npy", npy(small))
    told = shown(made(tmp_path, [pair], Fit(resolution=(25, 8), layout="channels-first")))[1]
    assert np.array_equal(told[0], small[:, :, 2:6])


@pytest.mark.parametrize("size", [(32,), (16, 16), (8, 8, 8)])
def test_arrays_of_conditions_have_channels_or_none(tmp_path, size):
    file = (".npy", npy(values((1, *size))))
    small = values((1, *(side // 2 for side in size)), 1)
    for name, told in (("with", small), ("without", small[0])):
        (tmp_path / name).mkdir()
        data = made(
            tmp_path / name, [(file, (".npy", npy(told)))], Fit(resolution=None, layout="channels-first"), ":image"
        )
        assert np.array_equal(shown(data)[1][0], small)


@pytest.mark.parametrize("layout", ["channels-last", None])
def test_arrays_of_conditions_are_laid_out_as_what_they_go_with(tmp_path, layout):
    file, told = values((16, 16, 2)), values((8, 8, 2), 1)
    data = made(tmp_path, [((".npy", npy(file)), (".npy", npy(told)))], Fit(resolution=None, layout=layout))
    assert data.shape == (2, 16, 16) and np.array_equal(shown(data)[1][0], np.moveaxis(told, -1, 0))


def test_audio_says_what_it_is(tmp_path):
    path = tmp_path / "wave.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 64), 8000, subtype="FLOAT")
    wave = (".wav", path.read_bytes())
    data = made(tmp_path, [(wave, wave)], Fit(resolution=None))
    assert dict(data.condition_shapes) == {"told": (1, 64)}


def test_a_row_is_left_out_with_its_condition(tmp_path):
    good, whole = png(picture(1, 4, 4)), png(picture(0, 8, 8))
    bad = {
        1: (".png", b""),
        2: png(picture(2, 16, 16)),
        4: (".npy", npy(np.full((3, 4, 4), np.nan, np.float32))),
        6: png(picture(2, 2, 2)),
        7: (".npy", npy(np.zeros((0, 4, 4), np.float32))),
    }
    pairs = [(whole, bad.get(row, good)) for row in range(8)]
    data = made(tmp_path, pairs, Fit(resolution=None), on_error="skip")
    assert [data.key(row)[0] for row in range(len(data))] == ["0", "3", "5"]
    assert len(shown(data)[1]) == 3 and data.manifest.skipped == 5
    lines = (tmp_path / "data" / "skipped.jsonl").read_text().splitlines()
    left = [Skipped(**json.loads(line)) for line in lines]
    assert [one.key[0] for one in left] == [str(row) for row in bad]
    for one, why in zip(left, ["is empty", "larger", "NaN", r"told \[3, 2, 2\]", "nothing in it"], strict=True):
        assert "'told'" in one.error and why.replace("\\", "") in one.error


def test_rows_without_a_value_are_left_out_or_kept_as_is_wanted(tmp_path):
    rows = [{"file": f"{row}.png", "told": f"{row}.npy" if row != 1 else None} for row in range(3)]
    for row in range(3):
        (tmp_path / f"{row}.png").write_bytes(encoded(picture(row, 8, 8)))
        (tmp_path / f"{row}.npy").write_bytes(npy(values((1, 3))[0]))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for missing, count in ((False, 2), (True, 3)):
        out = tmp_path / str(missing)
        options = SourceOptions(conditions=("told",), allow_missing=missing)
        prepare_data(str(tmp_path / "pairs.jsonl"), out, Fit(resolution=8), options=options, on_error="skip", workers=1)
        assert len(PreparedDataset(out)) == count
