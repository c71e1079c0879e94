"""Signals, fields and volumes as metrics see them: theory, what detectors get, what they are compared with."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from samples import folder_of_arrays, folder_of_tones, values

from unitgain.data.dataset import ArrayDataset
from unitgain.data.encoder import ArrayEncoder
from unitgain.data.fit import Fit
from unitgain.data.numbers import Numbers
from unitgain.data.prepare import prepare_data
from unitgain.evaluate.files import ImageError
from unitgain.evaluate.images import DataImages, open_images
from unitgain.evaluate.judge import Judge
from unitgain.evaluate.references import make_references
from unitgain.metrics.detectors import Function, Pixels
from unitgain.metrics.measure import measure
from unitgain.metrics.networks import open_script
from unitgain.metrics.reference import Fingerprint, Reference, load_references, save_references
from unitgain.metrics.summary import summarize
from unitgain.metrics.weights import Weights, open_detector, scale_of

SIZES = [(8,), (2, 4), (2, 2, 2)]
MEAN, STD = (1.0, -2.0), (3.0, 0.5)  # of two channels


def arrays(size, n=200, seed=0):
    """Float32 `[n, 2, *size]` of the scale above."""
    noise = torch.randn(n, 2, *size, generator=torch.Generator().manual_seed(seed))
    mean, std = (torch.tensor(numbers).reshape(1, 2, *[1] * len(size)) for numbers in (MEAN, STD))
    return noise * std + mean


def data_of(samples, dtype="float32"):
    encoder = ArrayEncoder.measured(MEAN, STD, Numbers(dtype=dtype))
    return ArrayDataset(name="arrays", images=samples, encoder=encoder)


def means(samples):
    return samples.float().flatten(2).mean(2)


@pytest.mark.parametrize("size", SIZES)
def test_the_distance_of_what_is_shifted_is_the_square_of_the_shift(size):
    real, shift = arrays(size), (0.3, -0.2)
    moved = real + torch.tensor(shift).reshape(1, 2, *[1] * len(size))
    judge = Judge.open(["fd", "kid"], DataImages(data_of(real)))
    assert [metric.detector for metric in judge.metrics] == ["pixels", "pixels"]
    own, _ = judge(real.split(64), DataImages(data_of(real)).source)
    other, kid = judge(moved.split(50), DataImages(data_of(moved)).source)
    assert own.value == pytest.approx(0, abs=1e-5)
    assert other.value == pytest.approx(
        8 * sum((c * 0.5 / std) ** 2 for c, std in zip(shift, STD, strict=True)), rel=1e-4
    )
    assert other.dims == 16 and kid.images == 200


@pytest.mark.parametrize("size", SIZES)
def test_functions_see_the_numbers_of_the_data(size):
    seen = []
    detector = Function(lambda x: (seen.append(x), means(x))[1], "means")
    samples = arrays(size).mul(20).round()
    for dtype, expected in ((torch.int16, torch.float32), (torch.float64, torch.float32), (torch.uint8, torch.uint8)):
        given = samples.abs().to(dtype)
        summary = summarize([given[:50], given[50:]], [detector])["means"]
        assert {one.dtype for one in seen} == {expected}
        assert torch.equal(torch.cat(seen)[:192].double(), given[:192].double())
        np.testing.assert_allclose(summary.mean, means(given).mean(0), rtol=1e-5)
        seen.clear()


def test_the_same_numbers_have_the_same_fingerprint_whatever_holds_them(tmp_path):
    folder = folder_of_arrays(tmp_path / "files", (2, 9), each=5)
    prepare_data(str(folder), tmp_path / "data", Fit(resolution=None))
    files, prepared = open_images(str(folder)), open_images(str(tmp_path / "data"))
    assert files.arrays and prepared.arrays and files.source.kind == "folder" and prepared.source.kind == "prepared"
    (one, first), (other, second) = (make_references(images, [Function(means, "f")]) for images in (files, prepared))
    assert first == second and torch.equal(one["f"].mean, other["f"].mean)
    whole, wide = Fingerprint(), Fingerprint()
    whole.update(torch.arange(12, dtype=torch.int16).reshape(2, 1, 6))
    wide.update(torch.arange(12, dtype=torch.float64).reshape(2, 1, 6))
    assert whole.hex() == wide.hex() != first
    pictures = Fingerprint()
    pictures.update(torch.arange(12, dtype=torch.uint8).reshape(2, 1, 6))
    assert pictures.hex() != whole.hex()


def test_a_reference_remembers_the_scale_of_each_channel(tmp_path):
    data = DataImages(data_of(arrays((8,))))
    detector = open_detector("pixels", scale=data.scale)
    summaries, fingerprint = make_references(data, [detector], rows=["pixels"])
    save_references(tmp_path / "real.npz", summaries, "arrays", fingerprint)
    info = load_references(tmp_path / "real.npz")["pixels"].summary.detector
    assert scale_of(info) == (MEAN, STD)
    assert open_detector("pixels", scale=scale_of(info)).info == detector.info
    judge = Judge.open(["fd_pixels"], tmp_path / "real.npz")
    assert judge(arrays((8,)).split(64), data.source)[0].value == pytest.approx(0, abs=1e-5)
    for broken in ({}, {"mean": "a", "std": 1.0}, {"mean": [1.0, None], "std": [1.0, 1.0]}):
        with pytest.raises(ValueError, match="scale of pixels"):
            scale_of(dataclasses.replace(info, settings=broken))
    for mean, std in (((0.0,), 1.0), ((0.0,), (0.0,)), ((0.0, 1.0), (1.0,)), ((), ()), ((float("nan"),), (1.0,))):
        with pytest.raises(ValueError, match="pixels need"):
            Pixels(mean, std)


def test_metrics_take_pixels_where_a_reference_has_nothing_else():
    pixels = Pixels(MEAN, STD)
    only = summarize(arrays((8,)).split(64), [pixels], rows=["pixels"])
    references = {name: Reference.of(summary) for name, summary in only.items()}
    assert [metric.label for metric in Judge.open(["fd", "kid"], references).metrics] == ["fd_pixels", "kid@pixels"]
    two = {**references, "means": references["pixels"]}
    with pytest.raises(ValueError, match="inception"):
        Judge.open(["kid"], two)


def test_networks_refuse_arrays_and_say_what_does_not(tmp_path):
    data, nothing = DataImages(data_of(arrays((8,)))), Weights(inception=tmp_path / "nothing.pt")
    for metric in ("fid", "kid@inception", "fd_dinov2", "fd@net.pt"):
        with pytest.raises(ValueError, match=r"sees pictures alone.*fd_pixels.*module:function"):
            Judge.open([metric], data, weights=nothing)  # before they are looked for
    torch.jit.script(torch.nn.Flatten()).save(tmp_path / "flat.pt")
    with pytest.raises(ValueError, match="fd_pixels"):
        open_script(tmp_path / "flat.pt")(arrays((2, 4)))


def test_pixels_of_arrays_need_their_scale_and_are_not_too_many():
    with pytest.raises(ValueError, match="unitgain data prepare"):
        Pixels()(arrays((8,)))
    with pytest.raises(ValueError, match="2 channels, and a scale of 1"):
        Pixels((0.0,), (1.0,))(arrays((8,)))
    with pytest.raises(ValueError, match="5000 pixels, more than 4096: use a function of your own"):
        Pixels((0.0,), (1.0,))(torch.zeros(2, 1, 5000))


def test_a_batch_may_be_of_any_size(monkeypatch):
    monkeypatch.setattr("unitgain.metrics.summary.PIXELS", 40)  # five arrays at a time
    real = arrays((2, 2, 2), n=33)
    detector = Pixels(MEAN, STD)
    one, other = (summarize(real.split(size), [detector], rows=["pixels"])["pixels"] for size in (33, 7))
    assert torch.equal(one.rows, other.rows) and torch.equal(one.cov, other.cov)
    assert measure(real.split(9), detector, ["coverage"], Reference.of(one))[0].value == 1


def test_files_of_arrays_are_read_as_prepared_ones(tmp_path):
    tones = folder_of_tones(tmp_path / "tones", length=40)
    prepare_data(str(tones), tmp_path / "data", Fit(resolution=None))
    files, prepared = (
        torch.cat([*one.batches(range(8))]) for one in map(open_images, (str(tones), str(tmp_path / "data")))
    )
    assert torch.equal(files, prepared) and files.shape == (8, 1, 40)
    np.save(tmp_path / "stack.npy", values((6, 2, 9)))
    stacked = open_images(str(tmp_path / "stack.npy"))
    assert torch.equal(torch.cat([*stacked.batches([4, 1])]), torch.from_numpy(values((6, 2, 9))[[4, 1]]))


def test_what_files_do_not_say_of_arrays_is_said_by_preparing_them(tmp_path):
    folder = folder_of_arrays(tmp_path / "odd", (5, 12, 8))
    with pytest.raises(ImageError, match=r"0\.npy has the shape.*--layout channels-first.*to unitgain data prepare"):
        list(open_images(str(folder)).batches(range(8)))
    latents = folder_of_arrays(tmp_path / "latents", (8, 4, 4))
    for path in latents.glob("*/*.npy"):
        np.save(path, np.abs(np.load(path)))
    with pytest.raises(ImageError, match="decode them"):
        list(open_images(str(latents)).batches(range(8)))


def test_pictures_and_arrays_are_measured_apart(tmp_path):
    folder = folder_of_arrays(tmp_path / "mixed", (2, 9), each=2)
    Image.new("L", (9, 9)).save(folder / "b" / "9.png")
    with pytest.raises(ImageError, match=r"9\.png is a picture among arrays"):
        list(open_images(str(folder)).batches(range(5)))
    Image.new("L", (9, 9)).save(folder / "a" / "-.png")
    with pytest.raises(ImageError, match=r"a/0\.npy is an array among pictures"):
        list(open_images(str(folder)).batches(range(6)))


def test_whatever_is_in_memory_can_be_measured():
    floats = ArrayDataset(
        name="floats", images=torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    )
    images = DataImages(floats)  # drawn as pixels, so compared as such
    (batch,) = images.batches(range(30))
    assert batch.dtype == torch.uint8 and not images.arrays
    own = Judge.open(["fd_pixels"], images)([batch], images.source)[0]
    assert own.value == pytest.approx(0, abs=1e-5)
    whole = DataImages(data_of(arrays((8,)).mul(30).short(), "int16"))
    (first, *_) = whole.batches([3, 1])
    assert first.dtype == torch.float32 and torch.equal(first, arrays((8,)).mul(30).short()[[3, 1]].float())
