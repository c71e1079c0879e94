"""What `check`, `show` and `export` say of prepared data."""

import json
import math
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from pictures import contents, encoded, folder_of, picture
from PIL import Image

from unitgain.data.check import advice, check
from unitgain.data.export import export
from unitgain.data.fit import Fit
from unitgain.data.manifest import DataError, read_manifest
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset, measured_encoder
from unitgain.data.sheet import contact_sheet


@pytest.fixture
def root(tmp_path):
    pictures = folder_of(tmp_path / "pictures", width=8, height=8)
    (pictures / "dog" / "9.png").write_bytes(encoded(picture(0, 8, 8)))  # cat/0 again, in another class
    (pictures / "eel" / "8.png").write_bytes(encoded(picture(201, 8, 8), "BMP"))  # eel/1 in another file
    prepare_data(str(pictures), tmp_path / "data", Fit(resolution=8), workers=1, shard=5)
    return tmp_path


def rewrite(folder, index, **columns):
    """Replace columns of a shard, its manifest as it was."""
    path = folder / f"data-{index:05d}.arrow"
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
    values = {name: table.column(name).combine_chunks() for name in table.column_names}
    values |= {name: pa.array(new, values[name].type) for name, new in columns.items()}
    batch = pa.record_batch(values)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)
    manifest = json.loads((folder / "unitgain.json").read_text())
    manifest["shards"][index]["bytes"] = path.stat().st_size
    (folder / "unitgain.json").write_text(json.dumps(manifest))


def test_healthy_data(root):
    report = check(root / "data")
    data = PreparedDataset(root / "data")
    pixels = data.rows(np.arange(len(data)))[0].double()
    assert report.healthy
    assert (report.rows, report.shape, report.counts) == (14, (3, 8, 8), (4, 5, 5))
    assert [[key for _, key, _ in group] for group in report.duplicates] == [
        ["cat/0.png", "dog/9.png"],
        ["eel/1.png", "eel/8.png"],
    ]
    assert [label for _, _, label in report.duplicates[0]] == [0, 1]
    np.testing.assert_allclose(report.mean, pixels.mean(dim=(0, 2, 3)))
    np.testing.assert_allclose(report.std, pixels.std(dim=(0, 2, 3), correction=0))
    seen = data.encode(pixels.byte())
    assert report.scale.mean == pytest.approx(seen.mean().item(), abs=1e-5)
    assert report.scale.std == pytest.approx(seen.std(correction=0).item(), abs=1e-5)


def test_files_may_be_links_as_in_what_the_hub_has_fetched(root):
    file = next((root / "data").glob("*.arrow"))
    file.rename(root / "blob")
    file.symlink_to(root / "blob")
    assert check(root / "data").healthy


def test_broken_rows_and_changed_files_are_found(root):
    images = [encoded(picture(seed, 8, 8)) for seed in range(4)]
    rewrite(root / "data", 1, image=[images[0], b"broken", encoded(picture(9, 4, 4)), *images[2:]])
    report = check(root / "data")
    assert not report.healthy
    assert [(row, key) for row, key, _ in report.errors] == [
        (6, PreparedDataset(root / "data").key(6)),
        (7, PreparedDataset(root / "data").key(7)),
    ]
    assert "cannot identify" in report.errors[0][2]
    assert "is 4x4, RGB, not 8x8, RGB" in report.errors[1][2]
    assert report.damaged == ("data-00001.arrow does not match its checksum",)
    with pytest.raises(DataError, match=r"row 6 .* cannot be decoded.*unitgain data check"):
        PreparedDataset(root / "data").rows(np.array([6]))
    (root / "data" / "data-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00002\.arrow is missing"):
        check(root / "data")


def test_labels_out_of_range_are_refused(root):
    rewrite(root / "data", 1, label=[0, 1, 1, 7, -1])
    for use in (PreparedDataset, check):
        with pytest.raises(DataError, match=r"row 3 has label 7, but there are 3 classes; 2 such rows|its checksum"):
            use(root / "data")


def uniform(root, name, low, high):
    """Pictures of random pixels between two values."""
    folder = root / name
    folder.mkdir()
    values = np.random.default_rng(0).integers(low, high + 1, (4, 32, 32, 3), dtype=np.uint8)
    for index, array in enumerate(values):
        Image.fromarray(array).save(folder / f"{index}.png")
    prepare_data(str(folder), root / f"{name}-data", Fit(resolution=32), workers=1)
    return root / f"{name}-data"


def test_what_the_scale_means(root):
    """Uniform pixels from a to b have the standard deviation (b - a) / sqrt(12), here in units of 127.5."""
    folder = uniform(root, "dark", 0, 50)
    report = check(folder)
    std = math.sqrt((51**2 - 1) / 12) / 127.5
    assert report.scale.std == pytest.approx(std, rel=0.02)
    assert report.scale.mean == pytest.approx(25 / 127.5 - 1, abs=0.01)
    assert not report.scale.fits
    assert report.scale.sigma_data == report.scale.std
    assert report.scale.P_mean_shift == pytest.approx(math.log(std / 0.5), rel=0.03)
    text = " ".join(advice(report, read_manifest(folder)))
    assert "--normalize measured" in text
    assert f"--sigma-data {report.scale.std:.3f}" in text
    assert f"add {report.scale.P_mean_shift:+.2f}" in text
    data = PreparedDataset(folder, measured_encoder(read_manifest(folder)))
    seen = data.batch(np.arange(4))[0]
    assert seen.mean().abs() < 1e-4
    assert seen.std(correction=0).item() == pytest.approx(0.5, abs=1e-4)
    assert check(uniform(root, "wide", 18, 237)).scale.fits  # 220 / sqrt(12) / 127.5 = 0.498
    flat = check(uniform(root, "flat", 9, 9))
    assert "All values are equal" in " ".join(advice(flat, read_manifest(root / "flat-data")))


def test_a_contact_sheet_shows_every_class(root):
    data = PreparedDataset(root / "data")
    sheet = np.asarray(contact_sheet(data, columns=3))
    assert np.array_equal(sheet, np.asarray(contact_sheet(data, columns=3)))
    assert not np.array_equal(sheet, np.asarray(contact_sheet(data, columns=3, seed=1)))
    step = 50  # 8 pixels enlarged to 48, and a gap
    assert sheet.shape[0] == 3 * step + 2
    enlarged = [
        np.kron(one.permute(1, 2, 0).numpy(), np.ones((6, 6, 1), np.uint8)) for one in data.rows(np.arange(14))[0]
    ]
    for row in range(3):
        cells = [sheet[2 + row * step :][:48, -(3 - column) * step :][:, :48] for column in range(3)]
        own = [enlarged[index] for index in range(14) if data.labels[index] == row]
        assert all(any(np.array_equal(cell, one) for one in own) for cell in cells)
    assert np.asarray(contact_sheet(data, rows=1)).shape[0] == step + 2 + 24  # and a line on the others
    with pytest.raises(ValueError, match="at least one column"):
        contact_sheet(data, columns=0)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_an_export_is_of_the_official_kind_and_comes_back(root, format):
    fit = Fit(resolution=8, format=format)
    prepare_data(str(root / "pictures"), root / format, fit, workers=1)
    data = PreparedDataset(root / format)
    export(data, root / "out.zip")
    with zipfile.ZipFile(root / "out.zip") as archive:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        labels = json.loads(archive.read("dataset.json"))["labels"]
        assert [label for _, label in labels] == data.labels.tolist()
        names = [name for name in sorted(archive.namelist()) if name != "dataset.json"]
        assert names == [name for name, _ in labels]
        with archive.open(names[5]) as file, Image.open(file) as image:
            assert image.format == "PNG"
            assert np.array_equal(np.asarray(image), data.rows(np.array([5]))[0][0].permute(1, 2, 0).numpy())
    prepare_data(str(root / "out.zip"), root / "back", Fit(resolution=None), workers=1)
    back = PreparedDataset(root / "back")
    assert back.classes == data.classes
    assert torch.equal(back.rows(np.arange(14))[0], data.rows(np.arange(14))[0])
    assert torch.equal(back.labels, data.labels)
    before = contents(root)["out.zip"]
    with pytest.raises(FileExistsError, match="is there already"):
        export(data, root / "out.zip")
    export(data, root / "again.zip")
    assert contents(root)["again.zip"] == before
