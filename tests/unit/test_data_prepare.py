"""The prepared form: whole, the same bytes whatever happened on the way, and readable by others."""

import errno
import io
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import nullcontext

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from deaths import die_until_done
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import contents, encoded, folder_of, picture

from unitgain.data.encoder import LatentEncoder, PixelEncoder
from unitgain.data.fit import Fit, fit_image
from unitgain.data.manifest import DataError, read_manifest
from unitgain.data.named import normalized, open_data
from unitgain.data.prepare import BrokenPictureError, prepare_data
from unitgain.data.prepared import PreparedDataset, measured_encoder
from unitgain.data.shards import _array
from unitgain.data.sources import SourceOptions
from unitgain.data.workers import in_order

FIT = Fit(resolution=8)


@pytest.fixture
def pictures(tmp_path):
    return folder_of(tmp_path / "pictures")


def make(pictures, folder, **options):
    return prepare_data(str(pictures), folder, FIT, **{"workers": 1, "shard": 5, **options})


def test_everything_is_there(pictures, tmp_path):
    manifest = make(pictures, tmp_path / "data")
    data = PreparedDataset(tmp_path / "data")
    files = sorted(pictures.rglob("*.png"))
    assert len(data) == manifest.rows == len(files) == 12
    assert [data.key(row) for row in range(12)] == [str(path.relative_to(pictures)) for path in files]
    assert data.classes == ("cat", "dog", "eel")
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = np.stack([np.asarray(fit_image(path.read_bytes(), FIT)[0]).transpose(2, 0, 1) for path in files])
    stored, labels = data.rows(np.arange(12))
    assert np.array_equal(stored.numpy(), expected)
    assert torch.equal(labels, data.labels)
    assert (data.shape, data.dtype, data.label_dim, data.latents) == ((3, 8, 8), torch.uint8, 3, False)
    rows = np.array([11, 0, 4, 4, 5])
    assert np.array_equal(data.rows(rows)[0].numpy(), expected[rows])
    assert torch.equal(data.batch(rows)[0], PixelEncoder().encode(torch.from_numpy(expected[rows])))
    assert [shard.rows for shard in manifest.shards] == [5, 5, 2]
    np.testing.assert_allclose(manifest.mean, expected.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(manifest.std, expected.std(axis=(0, 2, 3)))
    measured = PixelEncoder.measure(torch.from_numpy(expected))
    assert measured_encoder(manifest).mean == pytest.approx(measured.mean)
    assert measured_encoder(manifest).std == pytest.approx(measured.std)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        *(f"data-{index:05d}.arrow" for index in range(3)),
        "dataset_info.json",
        "state.json",
        "unitgain.json",
    ]


def test_the_datasets_library_reads_it(pictures, tmp_path):
    make(pictures, tmp_path / "data")
    table = datasets.load_from_disk(str(tmp_path / "data"))
    assert table.features["label"].names == ["cat", "dog", "eel"]
    assert table[7]["label"] == 1
    image = table.cast_column("image", datasets.Image())[7]["image"]
    stored = PreparedDataset(tmp_path / "data").rows(np.array([7]))[0][0]
    assert np.array_equal(np.asarray(image), stored.permute(1, 2, 0).numpy())
    again = prepare_data(str(tmp_path / "data"), tmp_path / "again", FIT, workers=1)
    assert again.classes == ("cat", "dog", "eel")
    assert torch.equal(PreparedDataset(tmp_path / "again").rows(np.array([7]))[0][0], stored)


def test_the_number_of_workers_changes_nothing(pictures, tmp_path):
    make(pictures, tmp_path / "one")
    make(pictures, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_killed_at_any_moment_it_ends_with_the_same_bytes(pictures, tmp_path):
    make(pictures, tmp_path / "undisturbed")
    died = die_until_done(lambda: make(pictures, tmp_path / "killed"), moments=(1, 2, 4, 5, 7, 9, 12, 14), longest=0.05)
    assert died >= 8
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_a_stream_that_is_killed_goes_on(pictures, tmp_path):
    (tmp_path / "set").mkdir()
    files = sorted(pictures.rglob("*.png"))
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": path.read_bytes(), "path": None} for path in files]},
        features=datasets.Features({"image": datasets.Image()}),
    )
    table.to_parquet(tmp_path / "set" / "train.parquet")

    def stream(folder):
        return make(f"hub:{tmp_path / 'set'}", folder, shard=4)

    stream(tmp_path / "undisturbed")
    died = die_until_done(lambda: stream(tmp_path / "killed"), moments=(6, 11, 14), longest=0.3)
    assert died >= 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    assert len(PreparedDataset(tmp_path / "killed")) == 12


def test_finished_shards_are_not_made_again(pictures, tmp_path):
    folder = tmp_path / "data"
    (pictures / "dog" / "3.png").write_bytes(b"broken")  # number 7, in the second shard
    with pytest.raises(BrokenPictureError, match=r"dog/3\.png cannot be decoded.*--on-error skip"):
        make(pictures, folder)
    first = folder / "data-00000.arrow"
    before = first.stat().st_mtime_ns, first.read_bytes()
    with pytest.raises(FileNotFoundError, match="is not finished"):
        PreparedDataset(folder)
    make(pictures, folder, on_error="skip")
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    modified = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    make(pictures, folder, on_error="skip")  # nothing left to do
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == modified


def test_a_damaged_shard_is_made_again(pictures, tmp_path):
    folder = tmp_path / "data"
    (pictures / "eel" / "3.png").write_bytes(b"broken")
    with pytest.raises(BrokenPictureError):
        make(pictures, folder)
    shard = folder / "data-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + b"x" + whole[-8:])
    make(pictures, folder, on_error="skip")
    assert shard.read_bytes() == whole


def test_skipped_pictures_are_listed(pictures, tmp_path):
    (pictures / "dog" / "1.png").write_bytes(b"broken")
    (pictures / "eel" / "0.png").write_bytes(b"")
    manifest = make(pictures, tmp_path / "data", on_error="skip")
    assert (manifest.rows, manifest.skipped) == (10, 2)
    listed = [json.loads(line) for line in (tmp_path / "data" / "skipped.jsonl").read_text().splitlines()]
    assert [row["key"] for row in listed] == ["dog/1.png", "eel/0.png"]
    assert "cannot be decoded" in listed[0]["error"]
    assert listed[1]["error"] == "is empty"
    assert PreparedDataset(tmp_path / "data").labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="no image is left: all 12 could not be used"):
        make(pictures, tmp_path / "none", on_error="skip")


def test_images_as_they_are_must_agree(pictures, tmp_path):
    as_they_are = Fit(resolution=None)
    for path in pictures.rglob("*.png"):
        path.write_bytes(encoded(picture(1, 6, 6)))
    manifest = prepare_data(str(pictures), tmp_path / "data", as_they_are, workers=1)
    assert manifest.resolution == 6
    (pictures / "eel" / "2.png").write_bytes(encoded(picture(1, 7, 7)))
    with pytest.raises(BrokenPictureError, match=r"eel/2.png is image of 3 channels, 7x7 where others are .* 6x6"):
        prepare_data(str(pictures), tmp_path / "other", as_they_are, workers=1)


def test_rectangles(pictures, tmp_path):
    """Height x width, in numbers and in shape, resumed or not."""
    fit = Fit(resolution=(6, 10))
    manifest = prepare_data(str(pictures), tmp_path / "data", fit, workers=1, shard=4)
    assert manifest.resolution == (6, 10)
    assert json.loads((tmp_path / "data" / "unitgain.json").read_text())["resolution"] == [6, 10]
    data = PreparedDataset(tmp_path / "data")
    assert data.shape == (3, 6, 10) and data.rows(np.arange(3))[0].shape == (3, 3, 6, 10)
    assert prepare_data(str(pictures), tmp_path / "square", Fit(resolution=(6, 6)), workers=1).resolution == 6


def test_rectangles_as_they_are_go_on_where_they_were(tmp_path):
    pictures = folder_of(tmp_path / "pictures", width=7, height=5)

    def stop(done, _):
        if done == 9:
            raise KeyboardInterrupt

    for name, report in (("whole", None), ("resumed", stop), ("resumed", None)):
        with pytest.raises(KeyboardInterrupt) if report else nullcontext():
            prepare_data(str(pictures), tmp_path / name, Fit(resolution=None), workers=1, shard=4, on_progress=report)
    assert read_manifest(tmp_path / "whole").resolution == (5, 7)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_a_source_is_the_same_however_it_is_spelled(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "link").symlink_to(pictures)
    spelled = ("pictures", "./pictures", str(pictures), "link")
    first, *others = (open_data(one, fit=FIT) for one in spelled)
    assert all(other.folder == first.folder for other in others)
    (pictures / "dog" / "3.png").write_bytes(b"broken")
    for one in spelled:  # and where a call was interrupted
        with pytest.raises(BrokenPictureError):
            prepare_data(one, tmp_path / "begun", FIT, workers=1, shard=2)
    shutil.copytree(pictures, tmp_path / "copy")  # with the same times
    with pytest.raises(ValueError, match="source: 'link' -> 'copy'; source_fingerprint"):
        prepare_data("copy", tmp_path / "begun", FIT, workers=1, shard=2)


def test_other_settings_are_refused(pictures, tmp_path):
    make(pictures, tmp_path / "data")
    with pytest.raises(ValueError, match=r"holds prepared data made with other settings .*shard: 5 -> 6"):
        make(pictures, tmp_path / "data", shard=6)
    (pictures / "dog" / "3.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="source_fingerprint"):
        make(pictures, tmp_path / "data")
    with pytest.raises(BrokenPictureError):
        make(pictures, tmp_path / "begun")
    with pytest.raises(ValueError, match=r"holds an unfinished job with other settings .*fit.fit: 'crop' -> 'pad'"):
        prepare_data(str(pictures), tmp_path / "begun", Fit(resolution=8, fit="pad"), workers=1, shard=5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="is not empty"):
        make(pictures, tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.tex": b"x"}


def test_a_job_that_finished_nothing_does_not_bind_the_next(pictures, tmp_path):
    """Who gave the wrong resolution, or repairs the picture that the message names, need not delete the folder."""
    first = min(pictures.rglob("*.png"))
    good = first.read_bytes()
    first.write_bytes(b"broken")
    with pytest.raises(BrokenPictureError):
        prepare_data(str(pictures), tmp_path / "data", Fit(resolution=None), workers=1, shard=5)
    first.write_bytes(good)
    make(pictures, tmp_path / "data")
    make(pictures, tmp_path / "undisturbed")
    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def test_damage_is_noticed_on_opening(pictures, tmp_path):
    make(pictures, tmp_path / "data")
    path = tmp_path / "data" / "data-00001.arrow"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data-00001.arrow is missing or was cut short"):
        PreparedDataset(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="unitgain data prepare"):
        PreparedDataset(tmp_path / "nowhere")
    (tmp_path / "data" / "unitgain.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        PreparedDataset(tmp_path / "data")


def test_enlarged_pictures_are_counted(pictures, tmp_path):
    assert prepare_data(str(pictures), tmp_path / "data", Fit(resolution=16), workers=1).enlarged == 12
    assert make(pictures, tmp_path / "small").enlarged == 0


def test_latents_of_an_official_archive(tmp_path):
    moments = np.abs(np.random.default_rng(0).normal(size=(5, 8, 4, 4))).astype(np.float32)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index, array in enumerate(moments):
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"00000/img{index:08d}.npy", buffer.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[f"00000/img{i:08d}.npy", i % 2] for i in range(5)]}))
    prepare_data(str(tmp_path / "a.zip"), tmp_path / "data", Fit(resolution=None), workers=1, shard=2)
    data = PreparedDataset(tmp_path / "data")
    assert data.latents
    assert data.encoder == LatentEncoder.official()
    assert (data.shape, data.stored_shape, data.label_dim) == ((4, 4, 4), (8, 4, 4), 2)
    assert np.array_equal(data.rows(np.array([4, 1, 3]))[0].numpy(), moments[[4, 1, 3]])
    drawn = moments[:, :4].mean(axis=(0, 2, 3))
    np.testing.assert_allclose(read_manifest(tmp_path / "data").mean, drawn, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 12), st.integers(1, 7))
def test_shards_of_any_size_hold_the_same_rows(tmp_path_factory, count, shard):
    root = tmp_path_factory.mktemp("any")
    folder_of(root / "pictures", classes=("x",), each=count, width=4, height=4)
    options = SourceOptions(no_labels=True)
    prepare_data(str(root / "pictures"), root / "data", Fit(resolution=4), options=options, workers=1, shard=shard)
    data = PreparedDataset(root / "data")
    keys = sorted(f"x/{index}.png" for index in range(count))
    assert [data.key(row) for row in range(len(data))] == keys
    assert data.rows(np.arange(count))[1] is None


def test_pandas_is_not_imported(pictures, tmp_path):
    """It takes half a second, which is as long as hundreds of pictures take."""
    code = (
        "import sys, pathlib, unitgain.data.prepare as p; from unitgain.data.fit import Fit; "
        f"p.prepare_data({str(pictures)!r}, pathlib.Path({str(tmp_path / 'data')!r}), Fit(resolution=8)); "
        "print('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_columns_are_those_of_arrow():
    for values, kind in (([b"a", b"", b"bcd"], pa.binary()), (["é", "", "x"], pa.string()), ([3, 0, -1], pa.int64())):
        assert _array(values).equals(pa.array(values, kind))


def test_a_full_disk_says_for_which_file(pictures, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")  # as Arrow does, without the path

    with monkeypatch.context() as patch:
        patch.setattr("unitgain.data.shards.sha256", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*data/data-00000\.arrow'"):
            make(pictures, tmp_path / "data")
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert make(pictures, tmp_path / "data").rows == 12


def square(number):
    time.sleep(number % 3 / 500)
    if number == 60:
        raise ValueError("sixty")
    return number**2


@pytest.mark.parametrize("threads", [1, 3, None])
def test_results_come_in_order_and_errors_in_their_turn(threads):
    taken = []
    results = in_order(square, map(lambda number: taken.append(number) or number, range(1000)), threads)
    assert [next(results) for _ in range(60)] == [number**2 for number in range(60)]
    with pytest.raises(ValueError, match="sixty"):
        next(results)
    assert len(taken) < 200  # bounded, and over with the error
    assert list(in_order(square, [], threads)) == []
    results = in_order(square, range(50), threads)
    assert next(results) == 0
    results.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


def test_data_of_any_kind_by_name(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path / "cache"))
    make(pictures, tmp_path / "data")
    expected = PreparedDataset(tmp_path / "data").rows(np.arange(12))[0]
    assert torch.equal(open_data(str(tmp_path / "data")).rows(np.arange(12))[0], expected)
    for _ in range(2):  # the second time it is there
        data = open_data(str(pictures), "measured", fit=FIT)
        assert torch.equal(data.rows(np.arange(12))[0], expected)
        assert data.encoder != PixelEncoder()
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 1
    assert open_data(str(pictures), fit=FIT, folder=tmp_path / "mine").name == str(tmp_path / "mine")
    assert normalized(data, "measured")._parts is data._parts  # opened once
    assert open_data("digits").label_dim == 10
    with pytest.raises(ValueError, match="give fit too"):
        open_data(str(tmp_path / "data"), folder=tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match="holds no prepared data"):
        open_data(str(pictures))
    with pytest.raises(ValueError, match="unknown data set"):
        open_data(str(tmp_path / "nowhere"))
