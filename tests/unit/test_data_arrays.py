"""Arrays, audio and volumes become rows of prepared data: the numbers that were there, and nothing else."""

import io
import json

import datasets
import nibabel
import numpy as np
import pytest
import soundfile
import torch
from pictures import contents, encoded, picture
from samples import folder_of_arrays, folder_of_tones, folder_of_volumes, nifti, npy, tone, values, write_array

from unitgain.data.arrays import arranged, fitted, told_layout
from unitgain.data.check import advice, check
from unitgain.data.dataset import ArrayDataset
from unitgain.data.encoder import ArrayEncoder, encoder_from_dict
from unitgain.data.fit import Fit, ImageError
from unitgain.data.loader import Loader
from unitgain.data.manifest import DataError, read_manifest
from unitgain.data.named import open_data
from unitgain.data.numbers import Numbers
from unitgain.data.prepare import BrokenPictureError, prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.preview import pictures_of
from unitgain.data.sources import SourceOptions
from unitgain.draw.files import file_kind
from unitgain.serial import to_dict

PLAIN = Fit(resolution=None)


def make(source, folder, fit=PLAIN, options=None, **more):
    prepare_data(str(source), folder, fit, options=options, workers=1, **more)
    return PreparedDataset(folder)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize("shape", [(2, 32), (5, 12, 8), (1, 6, 8, 4)])
def test_arrays_of_a_folder_are_there_to_the_bit(tmp_path, shape, suffix):
    folder = folder_of_arrays(tmp_path / "arrays", shape, suffix=suffix)
    data = make(folder, tmp_path / "data", Fit(resolution=None, layout="channels-first"), shard=3)
    expected = np.stack([values(shape, 100 * number + index) for number in range(2) for index in range(4)])
    assert (data.shape, data.dtype, data.label_dim, data.latents) == (shape, torch.float32, 2, False)
    assert np.array_equal(data.rows(np.arange(8))[0].numpy(), expected)
    assert data.labels.tolist() == [0] * 4 + [1] * 4
    assert data.key(5) == f"b/1{suffix}"
    others = tuple(axis for axis in range(expected.ndim) if axis != 1)
    np.testing.assert_allclose(data.manifest.mean, expected.mean(others, np.float64), rtol=1e-5)
    np.testing.assert_allclose(data.manifest.std, expected.std(others, np.float64), rtol=1e-5)
    seen, _ = data.batch(np.arange(8))
    assert seen.mean(others).abs().max() < 1e-5
    torch.testing.assert_close(seen.std(others, correction=0), torch.full((shape[0],), 0.5))
    torch.testing.assert_close(data.encoder.decode(seen), torch.from_numpy(expected), rtol=1e-6, atol=1e-5)
    table = datasets.load_from_disk(str(tmp_path / "data"))
    assert np.frombuffer(table[5]["array"], np.float32).tolist() == expected[5].ravel().tolist()
    report = check(tmp_path / "data", workers=1)
    assert report.healthy and report.kind == "array" and report.scale.fits
    np.testing.assert_allclose(report.mean, data.manifest.mean, rtol=1e-6)
    assert "nothing to change" in advice(report, data.manifest)[-1]


@pytest.mark.parametrize(
    "shape, layout",
    [
        ((100,), "no-channels"),
        ((2, 100), "channels-first"),
        ((100, 2), "channels-last"),
        ((1, 16, 16), "channels-first"),
        ((16, 16, 3), "channels-last"),
        ((1, 8, 16, 16), "channels-first"),
        ((8, 16, 16, 4), "channels-last"),
    ],
)
def test_layouts_are_told_where_only_one_can_be(shape, layout):
    assert told_layout(shape) == layout


@pytest.mark.parametrize("shape", [(16, 16), (3, 3), (5, 16, 16), (16, 16, 16), (3, 16, 3), (8, 8, 8, 8), (2, 3)])
def test_layouts_that_may_be_another_are_asked_for(shape):
    with pytest.raises(ImageError, match="does not tell its channels from its sides: give --layout channels-first"):
        told_layout(shape)


def test_layouts_are_what_they_are_called():
    array = values((5, 4, 3))
    assert np.array_equal(arranged(array, "channels-first"), array)
    assert np.array_equal(arranged(array, "channels-last"), array.transpose(2, 0, 1))
    assert np.array_equal(arranged(array, "no-channels"), array[None])
    for wrong in (values((2, 2, 2, 2, 2)), np.array(3.0), np.zeros((0, 4), np.float32)):
        with pytest.raises(ImageError):
            arranged(wrong, "channels-first")


def test_arrays_are_cut_and_padded():
    wave, volume = values((1, 10)), values((2, 5, 6, 7))
    assert np.array_equal(fitted(wave, Fit(resolution=4)), wave[:, :4])
    padded = fitted(wave, Fit(resolution=(12,), fit="pad"))
    assert np.array_equal(padded[:, :10], wave) and not padded[:, 10:].any()
    assert np.array_equal(fitted(volume, Fit(resolution=(3, 6, 5))), volume[:, 1:4, :, 1:6])
    both = fitted(volume, Fit(resolution=6, fit="pad"))
    assert both.shape == (2, 6, 6, 6) and np.array_equal(both[:, :5], volume[..., :6])
    for fit, why in (
        (Fit(resolution=12), "smaller than 12: --fit pad adds zeros"),
        (Fit(resolution=(4, 5)), "is for other dimensions"),
        (Fit(resolution=4, fit="stretch"), "cannot be resampled"),
    ):
        with pytest.raises(ImageError, match=why):
            fitted(wave, fit)


@pytest.mark.parametrize(
    "dtype, stored", [("u1", "uint8"), ("?", "uint8"), ("i1", "int16"), (">i2", "int16"), ("u2", "float32")]
)
def test_whole_numbers_stay_whole(tmp_path, dtype, stored):
    array = np.arange(64).reshape(2, 32).astype(dtype)
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", array)
    data = make(tmp_path / "arrays", tmp_path / "data")
    assert data.manifest.array == Numbers(dtype=stored)
    rows = data.rows(np.array([0]))[0]
    assert rows.dtype == getattr(torch, stored) and rows[0].tolist() == array.astype(int).tolist()
    torch.testing.assert_close(data.encoder.decode(data.encode(rows)), rows, rtol=0, atol=1e-5)


def test_stacks(tmp_path):
    array, labels = values((6, 2, 40)), np.array([2, 0, 1, 1, 0, 2])
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "y.npy", labels)
    np.savez(tmp_path / "x.npz", signals=array, label=np.array(list("cabbac")))
    write_array(tmp_path / "x.h5", array)
    kinds = {
        "x.npy": (SourceOptions(labels=tmp_path / "y.npy"), ("0", "1", "2")),
        "x.npz": (None, ("a", "b", "c")),
        "x.h5": (None, None),
    }
    for name, (options, classes) in kinds.items():
        data = make(tmp_path / name, tmp_path / f"data-{name}", options=options)
        assert np.array_equal(data.rows(np.arange(6))[0].numpy(), array) and data.classes == classes
        assert data.labels is None or data.labels.tolist() == labels.tolist()
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts" / "0.npy", array[:2])
    np.save(tmp_path / "parts" / "1.npy", array[2:])
    data = make(tmp_path / "parts", tmp_path / "whole", options=SourceOptions(stacked=True))
    assert np.array_equal(data.rows(np.arange(6))[0].numpy(), array) and data.key(2) == "1.npy/000000000"


def test_pixels_in_stacks_are_pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 10, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, y=np.arange(4)[:, None])
    data = make(tmp_path / "x.npz", tmp_path / "data")
    assert data.manifest.kind == "image" and data.shape == (3, 8, 10) and data.label_dim == 4
    assert np.array_equal(data.rows(np.arange(4))[0].numpy(), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_audio(tmp_path, suffix):
    folder = folder_of_tones(tmp_path / "tones", suffix=suffix)
    data = make(folder, tmp_path / "data", Fit(resolution=300, fit="pad"))
    assert data.shape == (1, 300) and data.classes == ("500", "1500")
    assert data.manifest.array == Numbers(media="audio", rate=8000)
    expected, _ = soundfile.read(folder / data.key(1), dtype="float32")
    row = data.rows(np.array([1]))[0][0, 0].numpy()
    assert np.array_equal(row[: len(expected)], expected) and not row[len(expected) :].any()


def test_audio_of_16_bits_comes_back_to_the_bit(tmp_path):
    whole = np.array([-32768, -20001, -1, 0, 1, 20001, 32767], np.int16)
    (tmp_path / "tones").mkdir()
    soundfile.write(tmp_path / "tones" / "a.wav", whole, 8000, subtype="PCM_16")
    data = make(tmp_path / "tones", tmp_path / "data")
    written = file_kind(to_dict(data.encoder)).encode(data.rows(np.array([0]))[0][0])
    assert soundfile.read(io.BytesIO(written), dtype="int16")[0].tolist() == whole.tolist()


def test_stereo_is_kept_or_mixed(tmp_path):
    (tmp_path / "tones").mkdir()
    wave = np.concatenate([tone(500), -0.5 * tone(500)], axis=1)
    soundfile.write(tmp_path / "tones" / "a.wav", wave, 8000, subtype="FLOAT")
    stereo = make(tmp_path / "tones", tmp_path / "stereo").rows(np.array([0]))[0]
    mono = make(tmp_path / "tones", tmp_path / "mono", Fit(resolution=None, channels=1)).rows(np.array([0]))[0]
    assert np.array_equal(stereo[0].numpy(), wave.T)
    np.testing.assert_allclose(mono[0, 0].numpy(), wave.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes(tmp_path, suffix):
    folder = folder_of_volumes(tmp_path / "volumes", suffix=suffix)
    data = make(folder, tmp_path / "data")
    assert data.shape == (1, 6, 8, 8) and data.manifest.array == Numbers(media="volume", spacing=(1.0, 2.0, 3.0))
    assert np.array_equal(data.rows(np.array([3]))[0][0].numpy(), values((1, 6, 8, 8), 3))
    cut = make(folder, tmp_path / "cut", Fit(resolution=(6, 4, 8)))
    assert np.array_equal(cut.rows(np.array([3]))[0][0].numpy(), values((1, 6, 8, 8), 3)[:, :, 2:6])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_what_other_programs_leave_in_headers_of_volumes(tmp_path, kind, suffix):
    """Such as the XML that AFNI writes, between the header and the values."""
    image = kind(values((1, 4, 4, 4))[0], np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("afni", b"x" * 3000))
    (tmp_path / "volumes").mkdir()
    image.to_filename(tmp_path / "volumes" / f"a{suffix}")
    row = make(tmp_path / "volumes", tmp_path / "data").rows(np.array([0]))[0]
    assert np.array_equal(row[0].numpy(), values((1, 4, 4, 4)))


def test_volumes_of_whole_numbers_with_a_scale_and_of_channels(tmp_path):
    (tmp_path / "volumes").mkdir()
    whole = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    image = nifti(whole)
    image.to_filename(tmp_path / "volumes" / "plain.nii")
    data = make(tmp_path / "volumes", tmp_path / "whole")
    assert data.dtype == torch.int16 and np.array_equal(data.rows(np.array([0]))[0][0, 0].numpy(), whole)
    image.header.set_slope_inter(2, 5)
    image.to_filename(tmp_path / "volumes" / "plain.nii")
    data = make(tmp_path / "volumes", tmp_path / "scaled")
    expected = image.__class__.from_filename(tmp_path / "volumes" / "plain.nii").get_fdata()
    np.testing.assert_allclose(data.rows(np.array([0]))[0][0, 0].numpy(), expected, rtol=1e-6)
    nifti(values((4, 4, 4, 2))).to_filename(tmp_path / "volumes" / "plain.nii")
    assert make(tmp_path / "volumes", tmp_path / "channels").shape == (2, 4, 4, 4)


def test_interrupted_or_not_the_bytes_are_the_same(tmp_path):
    folder = folder_of_volumes(tmp_path / "volumes", each=6)
    make(folder, tmp_path / "once", shard=2)
    whole = contents(tmp_path / "once")
    (folder / "5.nii.gz").write_bytes(b"")
    with pytest.raises((BrokenPictureError, ValueError), match=r"5\.nii\.gz is empty"):
        make(folder, tmp_path / "twice", shard=2)
    assert whole.keys() >= {"data-00000.arrow"}
    prepare_data(str(folder), tmp_path / "all", PLAIN, workers=3, shard=2, on_error="skip")
    assert read_manifest(tmp_path / "all").rows == 5
    assert contents(tmp_path / "all")["data-00001.arrow"] == whole["data-00001.arrow"]


# What does not fit.


def mixed(root, **files):
    root.mkdir()
    for name, content in files.items():
        (root / name.replace("_", ".")).write_bytes(content)
    return root


def wav(wave, rate=8000):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV")
    return buffer.getvalue()


NAN = values((1, 16))
NAN[0, 3] = np.nan
INFINITE = np.full((1, 16), 1e300)
OTHERS = [
    (
        {"a_npy": npy(values((1, 16))), "b_npy": npy(values((1, 16, 16)))},
        "has 2 dimensions (16x16) where others have 1",
    ),
    ({"a_npy": npy(values((1, 16))), "b_npy": npy(values((1, 18)))}, "give a resolution"),
    ({"a_npy": npy(values((1, 16))), "b_npy": npy(values((2, 16)))}, "has 2 channels where others have 1"),
    (
        {"a_npy": npy(values((1, 16))), "b_npy": npy(np.ones((1, 16), np.int16))},
        "holds int16 where others hold float32",
    ),
    (
        {"a_wav": wav(tone(500)), "b_wav": wav(tone(500), 16000)},
        "has 16,000 samples per second where others have 8,000",
    ),
    ({"a_wav": wav(tone(500)), "b_wav": wav(tone(500, channels=2))}, "--channels 1 mixes stereo to mono"),
    ({"a_npy": npy(NAN)}, "holds 1 values that are NaN or infinite, the first at (0, 3)"),
    ({"a_npy": npy(INFINITE)}, "holds 16 values that are NaN or infinite"),
    ({"a_npy": npy(np.ones((2, 16), complex))}, "complex128 (2, 16): whole or floating numbers"),
    ({"a_npy": npy(np.array(["x"] * 16))}, "whole or floating numbers"),
    ({"a_npy": b""}, "is empty"),
    ({"a_wav": b""}, "is empty"),
    ({"a_wav": wav(np.zeros((0, 1)))}, "is empty: it holds no samples"),
    ({"a_wav": b"what is this"}, "is not what its name says"),
    ({"a_nii": b"what is this"}, "is no NIfTI volume in one file"),
    ({"a_npy": npy(values((16, 16)))}, "does not tell its channels from its sides: give --layout"),
    ({"a_npy": npy(values((8, 6, 6), shift=0))}, "some standard deviations are negative"),
    ({"a_png": encoded(picture(0)), "b_npy": npy(values((1, 16)))}, "where others are image of 3 channels"),
]


@pytest.mark.parametrize("files, why", OTHERS, ids=range(len(OTHERS)))
def test_what_does_not_fit_is_said(tmp_path, files, why):
    folder = mixed(tmp_path / "arrays", **files)
    with pytest.raises(BrokenPictureError) as caught:
        make(folder, tmp_path / "data")
    assert why in str(caught.value)
    assert not (tmp_path / "data" / "unitgain.json").exists()


def test_one_kind_of_file_is_taken(tmp_path):
    folder = folder_of_tones(tmp_path / "tones")
    (folder / "500" / "cover.png").write_bytes(encoded(picture(0)))
    notes = []
    data = make(folder, tmp_path / "data", say=notes.append)
    assert len(data) == 8 and notes[0] == "1 files of pictures lie beside the audio and were left out: 500/cover.png"


def test_arrays_in_files_of_several_are_named(tmp_path):
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "a.npz", u=values((1, 16)), v=2 * values((1, 16)))
    with pytest.raises(BrokenPictureError, match="holds several arrays, u, v: choose one with --image-column"):
        make(tmp_path / "arrays", tmp_path / "data")
    data = make(tmp_path / "arrays", tmp_path / "data", options=SourceOptions(image_column="v"))
    assert np.array_equal(data.rows(np.array([0]))[0][0].numpy(), 2 * values((1, 16)))


def test_pictures_have_two_sides(tmp_path):
    folder = mixed(tmp_path / "pictures", a_png=encoded(picture(0)))
    with pytest.raises(BrokenPictureError, match="is a picture: resolution 4x4x4 must be 1 to 16384 pixels"):
        make(folder, tmp_path / "data", Fit(resolution=(4, 4, 4)))


def test_constant_channels_and_data(tmp_path):
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", np.full((1, 16), 3, np.float32))
    data = make(tmp_path / "arrays", tmp_path / "data")
    assert not data.batch(np.array([0]))[0].any()
    assert "nothing to learn" in advice(check(tmp_path / "data", workers=1), data.manifest)[-1]


@pytest.mark.parametrize(
    "shape, size",
    [((1, 16, 16, 16), (48, 144)), ((2, 20, 30), (20, 60)), ((1, 12, 8), (48, 32)), ((1, 64, 64), (64, 64))],
)
def test_previews_of_small_volumes_and_fields_are_enlarged(shape, size):
    """By whole numbers, so that each number stays one shade."""
    arrays = torch.from_numpy(values((3, *shape)))
    pictures = pictures_of(arrays, ArrayEncoder(mean=(0.0,) * shape[0], std=(20.0,) * shape[0]))
    assert pictures.shape == (3, 1, *size)
    times = 48 // max(shape[1:]) or 1
    cells = pictures.unfold(-2, times, times).unfold(-2, times, times)
    assert torch.equal(cells.amin((-2, -1)), cells.amax((-2, -1))) and cells.unique().numel() > 20


SIGMA = ArrayEncoder(mean=(0.0, 3.0), std=(2.0, 0.5))


def waves(*lengths):
    """Signals of two channels in 5 deviations, with one sample of each that is 8 of them from the mean."""
    noise = torch.randn(len(lengths), 2, max(lengths), generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    loud = noise.clone()
    loud[:, 0, 7], loud[:, 1, 9] = 8, -8
    scale = torch.tensor(SIGMA.std)[:, None], torch.tensor(SIGMA.mean)[:, None]
    return noise, noise * scale[0] + scale[1], loud * scale[0] + scale[1]


@pytest.mark.parametrize("length", [20, 192, 500, 700])
def test_waveforms_go_from_the_least_to_the_largest_of_their_samples(length):
    noise, signals, _ = waves(length, length)
    pictures = pictures_of(signals, SIGMA)
    columns = min(length, 192)
    assert pictures.shape == (2, 1, 96, columns * (192 // columns))
    edges = torch.linspace(0, length, columns + 1).round().long().tolist()
    for column in (0, 5, columns - 1):
        part = noise[1, 0, edges[column] : edges[column + 1] + 1]
        (ink,) = (pictures[1, 0, :48, column * (192 // columns)] < 100).nonzero(as_tuple=True)
        assert (
            ink.min() == ((0.5 - part.max() / 10) * 47).floor() and ink.max() == ((0.5 - part.min() / 10) * 47).ceil()
        )
    assert set(pictures.unique().tolist()) == {255, 40}


def test_a_waveform_that_goes_further_is_shown_whole_with_lines_that_say_its_scale():
    _, signals, loud = waves(192, 192)
    pictures = pictures_of(loud, SIGMA)
    first, second = pictures[0, 0, :48], pictures[0, 0, 48:]
    assert (first == 40).any(1).nonzero()[0] == int((0.5 - 8 / 20) * 47)  # neither cut nor at the edge
    assert (second == 40).any(1).nonzero()[-1] == int((0.5 + 8 / 20) * 47) + 1
    assert [*(first == 200).any(1).nonzero().flatten()] == [12, 35]  # 5 deviations of 10
    together = pictures_of(torch.cat([signals, loud]), SIGMA)
    assert torch.equal(together[:2], pictures_of(signals, SIGMA)) and torch.equal(together[2:], pictures)
    for broken in (torch.nan, torch.inf, 1e30):
        signals[0, 0, 3] = broken
        assert pictures_of(signals, SIGMA).shape == pictures.shape


def test_encoders_travel_as_json():
    encoder = ArrayEncoder(mean=(1.0, 2.0), std=(3.0, 4.0), numbers=Numbers(dtype="int16", media="audio", rate=8000))
    assert encoder_from_dict(json.loads(json.dumps(to_dict(encoder)))) == encoder
    with pytest.raises(ValueError, match=r"expected \[N, 2, \*size\]"):
        encoder.encode(torch.zeros(1, 3, 4))
    for wrong in ({"std": (0.0, 1.0)}, {"mean": (1.0,)}, {"kind": "pixels"}):
        with pytest.raises(ValueError, match="array encoder"):
            ArrayEncoder(**{"mean": (1.0, 2.0), "std": (3.0, 4.0)} | wrong)
    for wrong in ({"media": "audio"}, {"rate": 8000}, {"spacing": (0.0,)}, {"spacing": (1.0,) * 4}):
        with pytest.raises(ValueError, match="cannot be"):
            Numbers(**wrong)


def test_arrays_in_memory():
    data = ArrayDataset(name="x", images=torch.randn(6, 5, 12))
    assert data.shape == (5, 12) and torch.equal(data.batch(np.arange(6))[0], data.images)
    assert torch.equal(data.encoder.decode(data.images), data.images)
    whole = torch.randint(-300, 300, (6, 1, 4, 4, 4), dtype=torch.int16)
    with pytest.raises(ValueError, match="other numbers need an encoder"):
        ArrayDataset(name="x", images=whole)
    encoder = ArrayEncoder.measured([0.0], [150.0], Numbers(dtype="int16"))
    data = ArrayDataset(name="x", images=whole, encoder=encoder)
    assert torch.equal(encoder.decode(data.batch(np.arange(6))[0]), whole)
    with pytest.raises(ValueError, match="an encoder of 1 channels for images of 5"):
        ArrayDataset(name="x", images=torch.randn(6, 5, 12), encoder=encoder)


def test_loaders_read_arrays(tmp_path):
    folder = folder_of_arrays(tmp_path / "arrays", (2, 32))
    data = open_data(str(folder), fit=PLAIN, folder=tmp_path / "data")
    with Loader(data, 0, workers=2) as loader, Loader(data, 0, cache=True) as cached:
        stored, labels = loader.fetch(0, 8)
        assert torch.equal(stored, cached.fetch(0, 8)[0]) and sorted(labels.tolist()) == [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="signals are not mirrored"):
        Loader(data, 0, flip=True)


@pytest.mark.parametrize("change", [{"array": None}, {"encoder": None}, {"kind": "image"}, {"resolution": [8] * 4}])
def test_manifests_of_arrays_agree_with_themselves(tmp_path, change):
    folder_of_arrays(tmp_path / "arrays", (2, 32))
    make(tmp_path / "arrays", tmp_path / "data")
    path = tmp_path / "data" / "unitgain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="is damaged"):
        PreparedDataset(tmp_path / "data")
