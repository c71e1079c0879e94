"""Images from disk and from networks, references on disk, repetitions."""

import io
import json
import shutil
import zipfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from vaes import save_vae

from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.snapshot import Snapshot, SnapshotHeader, write_snapshot
from unitgain.cli.main import main
from unitgain.data.encoder import LatentEncoder, PixelEncoder
from unitgain.data.fit import Fit
from unitgain.data.prepare import prepare_data
from unitgain.data.sources import SourceOptions
from unitgain.denoiser import Denoiser
from unitgain.draw import DrawSettings, Network, open_network, write_images
from unitgain.evaluate.files import ImageError, decode
from unitgain.evaluate.generated import Generated
from unitgain.evaluate.images import as_ranges, open_images
from unitgain.evaluate.judge import Judge, repetitions
from unitgain.evaluate.references import make_references, open_references, references_of
from unitgain.hub import names_network
from unitgain.metrics.detectors import Function, Pixels
from unitgain.metrics.measure import measure
from unitgain.metrics.reference import (
    Fingerprint,
    ReferenceFileError,
    load_references,
    official_references,
    save_references,
)
from unitgain.sample import DPMpp2M, generate
from unitgain.serial import to_dict
from unitgain.trust import Limits


def pictures(n, channels=3, edge=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, edge, edge), generator=generator, dtype=torch.uint8)


def encoded(pixels, format="PNG"):
    array = pixels.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    lossless = {"lossless": True} if format == "WEBP" else {}
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file, format=format, **lossless)
    return file.getvalue()


def read_all(images):
    return torch.cat(list(images.batches(range(len(images)))))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "drawn"
    for i, pixels in enumerate(pictures(70)):
        path = root / f"{i // 30:02d}" / f"{i:04d}.{'webp' if i % 7 == 0 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels, "WEBP" if i % 7 == 0 else "PNG"))
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(b"")
    return root


def test_a_folder_is_read_in_the_order_of_its_names(folder):
    images = open_images(str(folder))
    assert torch.equal(read_all(images), pictures(70))
    assert images.source.formats == {"webp": 10, "png": 60}
    assert torch.equal(torch.cat(list(images.batches([5, 3]))), pictures(70)[[5, 3]])


def test_a_zip_and_prepared_data_hold_the_same(folder, tmp_path):
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            if path.is_file():
                file.write(path, path.relative_to(folder))
    assert torch.equal(read_all(open_images(str(archive))), pictures(70))
    binary = [encoded(pixels) for pixels in pictures(70)]
    datasets.Dataset.from_dict({"image": binary}).save_to_disk(tmp_path / "binary")
    assert torch.equal(read_all(open_images(str(tmp_path / "binary"))), pictures(70))
    typed = [{"bytes": encoded(pixels, "JPEG"), "path": None} for pixels in pictures(3)]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": typed}, features=features).save_to_disk(tmp_path / "typed")
    images = open_images(str(tmp_path / "typed"))
    assert images.source.formats == {"jpeg": 3}
    assert read_all(images).shape == (3, 3, 6, 6)
    datasets.Dataset.from_dict({"latent": [b"x"]}).save_to_disk(tmp_path / "latents")
    with pytest.raises(ValueError, match="latents"):
        open_images(str(tmp_path / "latents"))


def test_what_lies_beside_drawn_images_is_no_image_and_tells_of_them(folder):
    (folder / "grid.png").write_bytes(encoded(pictures(1)[0]))
    assert len(open_images(str(folder))) == 71
    about = {
        "format": "unitgain-images/1",
        "network": {"name": "net.safetensors", "sha256": "ab"},
        "settings": {"sampler": "heun", "steps": 8, "interval": [1, 2]},
        "images": [{"seed": seed, "file": f"{seed}.png", "class": None} for seed in (*range(60), *range(90, 100))],
    }
    (folder / "manifest.json").write_text(json.dumps(about))
    images = open_images(str(folder))
    assert len(images) == 70
    assert (images.source.seeds, images.source.snapshot, images.source.snapshot_hash) == (
        "0-59,90-99",
        "net.safetensors",
        "ab",
    )
    assert images.source.sampler == {"sampler": "heun", "steps": 8, "interval": "1-2"}
    (folder / "manifest.json").write_text("no JSON")
    assert open_images(str(folder)).source.seeds is None


def test_large_pictures_come_alone_and_in_order(tmp_path):
    for index, edge in enumerate((8, 8, 4100, 4100, 8)):
        Image.new("L", (edge, edge), index).save(tmp_path / f"{index}.png", compress_level=1)
    batches = [batch[:, 0, 0, 0].tolist() for batch in open_images(str(tmp_path)).batches(range(5))]
    assert batches == [[0, 1], [2], [3], [4]]
    with pytest.raises(ImageError, match=r"2\.png decoded, its 4100x4100 pixels takes .* raise --max-item-bytes"):
        read_all(open_images(str(tmp_path), Limits(max_item_bytes=40_000_000)))


def test_unreadable_images_are_named(folder, tmp_path):
    (folder / "00" / "0005.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(ImageError, match=r"00/0005\.png cannot be decoded"):
        read_all(open_images(str(folder)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    for name, message in (
        ("empty", "holds no pictures"),
        ("text.txt", "no source of images: it is empty; expected a folder"),
        ("broken.zip", "no whole zip"),
    ):
        with pytest.raises(ValueError, match=message):
            open_images(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no images at"):
        open_images(str(tmp_path / "nothing"))


def test_modes_of_images():
    def of(mode, value, **more):
        file = io.BytesIO()
        Image.new(mode, (2, 2), value).save(file, format="PNG", **more)
        return file.getvalue()

    assert decode(of("L", 7)).tolist() == [[[7, 7], [7, 7]]]
    assert decode(of("1", 1)).tolist() == [[[255, 255], [255, 255]]]
    assert decode(of("P", 0)).shape == (3, 2, 2)
    assert decode(of("RGBA", (1, 2, 3, 255)))[:, 0, 0].tolist() == [1, 2, 3]
    assert decode(of("RGBA", (1, 2, 3, 0)))[:, 0, 0].tolist() == [255, 255, 255]  # on white
    assert decode(of("LA", (7, 255)))[:, 0, 0].tolist() == [7]
    assert decode(of("I;16", 300)).tolist() == [[[1, 1], [1, 1]]]


def odd_pictures(root):
    """Kinds of pictures that readers disagree about."""
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    root.mkdir()
    for name, options in (
        ("a.bmp", {}),
        ("b.tif", {}),
        ("c.jpg", {"exif": turned}),
        ("d.gif", {}),
        ("e.png", {}),
        ("f.png", {}),
    ):
        image = {"e.png": wide.convert("L").convert("I;16"), "f.png": wide.convert("RGBA")}.get(name, wide)
        if name == "f.png":
            image.putalpha(100)
        image.save(root / name, **options)
    return root


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_metrics_see_what_prepare_sees(tmp_path, kind):
    what = odd_pictures(tmp_path / "set")
    if kind == "folder":
        (what / "up").symlink_to(what)
    else:
        what = shutil.make_archive(str(tmp_path / "set"), kind, what)
    prepare_data(str(what), tmp_path / "data", Fit(resolution=None), options=SourceOptions(no_labels=True))
    notes = []
    images, prepared = open_images(str(what), say=notes.append), open_images(str(tmp_path / "data"))
    assert len(images) == len(prepared) == 6
    every = range(6)
    each = [torch.cat([part.expand(-1, 3, 6, 6) for part in found.batches(every)]) for found in (images, prepared)]
    assert torch.equal(*each)
    assert any("up" in note for note in notes) == (kind == "folder")


def test_pictures_that_cannot_be_measured_are_named(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    (root / "empty.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"set: empty\.png is empty$"):
        read_all(open_images(str(root)))
    Image.new("1", (20000, 10000)).save(root / "empty.png")
    with pytest.raises(ImageError, match=r"empty\.png .*20000x10000 pixels takes 600,000,000 .*raise --max-item-bytes"):
        read_all(open_images(str(root)))
    assert read_all(open_images(str(root), Limits(max_item_bytes=10**9))).shape == (1, 1, 10000, 20000)


def test_limits_of_what_is_compared_with_can_be_raised(tmp_path):
    (tmp_path / "set").mkdir()
    for number in range(2):
        Image.new("L", (30, 30), number).save(tmp_path / "set" / f"{number}.png")
    with pytest.raises(ImageError, match=r"30x30 pixels takes 2,700 .*raise --max-item-bytes"):
        Judge.open(["fd_pixels"], tmp_path / "set", limits=Limits(max_item_bytes=2699))
    assert Judge.open(["fd_pixels"], tmp_path / "set", limits=Limits(max_item_bytes=2700)).references["pixels"]


@pytest.mark.parametrize("command", [["sweep"], ["tune"], ["train", "digits"]])
def test_every_command_that_measures_can_raise_them(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert "--max-item-bytes" in capsys.readouterr().out


def test_splits_are_measured_apart(tmp_path):
    for number, name in enumerate(("train/a.png", "val/b.png", "val/c.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(encoded(pictures(3)[number]))
    with pytest.raises(ValueError, match="choose one with --split"):
        open_images(str(tmp_path / "set"))
    assert torch.equal(read_all(open_images(str(tmp_path / "set"), split="val")), pictures(3)[1:])


def test_tables_are_measured(tmp_path):
    rows = {"image": [encoded(pixels, "JPEG" if i < 2 else "PNG") for i, pixels in enumerate(pictures(5))]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet", batch_size=2)
    images = open_images(str(tmp_path / "a.parquet"))
    assert images.source.formats == {"jpeg": 2, "other": 3}
    assert torch.equal(read_all(images)[2:], pictures(5)[2:])


def test_the_fingerprint_is_that_of_the_images_alone():
    images = pictures(9)

    def fingerprint(*parts):
        made = Fingerprint()
        for part in parts:
            made.update(part)
        return made.hex()

    whole = fingerprint(images)
    assert len(whole) == 64
    assert fingerprint(images.flip(0)[:4], images.flip(0)[4:]) == whole
    assert Fingerprint().hex([fingerprint(images[:4]), fingerprint(images[4:])]) == whole
    assert fingerprint(images[:8]) != whole
    changed = images.clone()
    changed[3, 0, 0, 0] ^= 1
    assert fingerprint(changed) != whole


def test_a_reference_file_comes_back(folder, tmp_path):
    images, pixels = open_images(str(folder)), Pixels()
    summaries, fingerprint = make_references(images, [pixels], rows=["pixels"])
    save_references(tmp_path / "ref.npz", summaries, "seventy", fingerprint)
    (reference,) = load_references(tmp_path / "ref.npz").values()
    assert (reference.name, reference.fingerprint, reference.count) == ("seventy", fingerprint, 70)
    assert reference.hash is not None
    assert reference.summary.detector == pixels.info
    assert torch.equal(reference.summary.cov, summaries["pixels"].cov)
    assert torch.equal(reference.rows(), pixels(pictures(70)))
    names = ["fd", "kid", "coverage"]
    found = measure([pictures(40, seed=1)], pixels, names, load_references(tmp_path / "ref.npz"))
    direct = measure([pictures(40, seed=1)], pixels, names, references_of(images, [pixels], names))
    assert [record.value for record in found] == [record.value for record in direct]
    with pytest.raises(ValueError, match=r"is an \.npz"):
        save_references(tmp_path / "ref.pkl", summaries, "", None)


def test_official_references(tmp_path):
    features = Pixels()(pictures(200)).double().numpy()
    mean, cov = features.mean(0), np.cov(features.T)
    np.savez(tmp_path / "official.npz", mu=mean, sigma=cov)
    reference = load_references(tmp_path / "official.npz")["inception"]
    assert reference.count is None
    assert torch.equal(reference.summary.cov, torch.from_numpy(cov))
    both = official_references({"fid": {"mu": mean, "sigma": cov}, "fd_dinov2": {"mu": mean, "sigma": cov}}, "both.pkl")
    assert list(both) == ["inception", "dinov2"]
    named = Function(Pixels(), "inception", hash="ab")
    (record,) = measure([pictures(150, seed=1)], named, ["fid"], reference)
    assert any("does not say which weights" in line for line in record.warnings)


def test_damaged_references_are_refused(tmp_path):
    path = tmp_path / "ref.npz"
    with pytest.raises(FileNotFoundError, match="unitgain metrics reference"):
        load_references(path)
    summaries, fingerprint = make_references(open_images("digits"), [Pixels()])
    save_references(path, summaries, "digits", fingerprint)
    whole = path.read_bytes()
    for damaged in (whole[:-200], b"", b"text", whole[:100] + b"\0" * 64 + whole[164:]):
        path.write_bytes(damaged)
        with pytest.raises(ReferenceFileError, match="damaged or no reference"):
            load_references(path)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(ReferenceFileError, match="do not fit"):
        load_references(path)
    np.savez(path, mu=np.array([{}], dtype=object), sigma=np.zeros((2, 2)))  # objects are pickles
    with pytest.raises(ReferenceFileError):
        load_references(path)
    (tmp_path / "old.pkl").write_bytes(b"")
    with pytest.raises(Refused, match="is empty"):
        open_references(tmp_path / "old.pkl")


@pytest.fixture
def snapshot(tmp_path, tiny_spec):
    denoiser = Denoiser(tiny_spec, 0.5)
    header = SnapshotHeader(
        network=tiny_spec,
        sigma_data=0.5,
        nimg=96,
        profile={"kind": "raw"},
        recipe="tiny",
        encoder=to_dict(PixelEncoder(mean=80.0, std=90.0)),
    )
    path = tmp_path / header.filename()
    state = {name: tensor if tensor.ndim else torch.tensor(0.5) for name, tensor in denoiser.state_dict().items()}
    write_snapshot(path, header, state)  # with gains that are not 0
    return path


def generated(snapshot, seeds, steps=2, guide=None, batch=64, **settings):
    main = open_network(str(snapshot), settings=DrawSettings(exact=settings.get("exact", False)))
    return Generated(main, guide, DrawSettings(steps=steps, **settings), seeds, batch=batch)


def test_generated_images_are_measured_without_being_kept(snapshot):
    images = generated(snapshot, range(10, 30), steps=3, batch=7, exact=True)
    assert images.scale == (80, 90)
    with Snapshot(snapshot) as opened:
        drawn = torch.cat([made for _, _, made in generate(opened.denoiser(), range(10, 30), images.settings.sigmas())])
        digest = opened.sha256
    expected = PixelEncoder(mean=80.0, std=90.0).decode(drawn)
    assert torch.equal(read_all(images), expected)
    assert torch.equal(torch.cat(list(images.batches([4, 2]))), expected[[4, 2]])
    assert (images.source.seeds, images.source.snapshot_hash) == ("10-29", digest)
    assert images.source.sampler["steps"] == 3


@pytest.mark.parametrize(
    "settings", [{}, {"sampler": DPMpp2M(), "guidance": 1.7, "interval": (0.1, 5.0), "label": 1, "rho": 5.0}]
)
def test_what_is_measured_is_what_sample_writes(snapshot, tmp_path, settings):
    """Byte for byte, guided or not; and a record says the same of either."""
    main, guide = open_network(str(snapshot)), None
    main.denoiser.label_dropout = 0.1
    drawing, seeds = DrawSettings(steps=3, **settings), range(3, 12)
    write_images(main, guide, drawing, seeds, tmp_path / "drawn", batch=4)
    images, files = Generated(main, guide, drawing, seeds, batch=5), open_images(str(tmp_path / "drawn"))
    written = [path.read_bytes() for path in sorted((tmp_path / "drawn").glob("*/*.png"))]
    assert [encoded(pixels) for pixels in read_all(images)] == written
    assert torch.equal(read_all(files), read_all(images))
    for name in ("seeds", "snapshot", "snapshot_hash", "sampler"):
        assert getattr(images.source, name) == getattr(files.source, name)
    if settings:
        assert images.source.sampler["interval"] == "0.1-5.0" and images.source.sampler["guide"] == "self"


def test_latents_are_measured_as_pictures(tiny_spec, tmp_path):
    denoiser = Denoiser(tiny_spec.replace(channels=4)).eval().requires_grad_(False)
    denoiser.encoder = to_dict(LatentEncoder(vae=save_vae(tmp_path), mean=(0.0,) * 4, std=(1.0,) * 4))
    images = Generated(Network(name="net", denoiser=denoiser, record={}), None, DrawSettings(steps=2), range(3))
    edge = 2 * tiny_spec.resolution
    assert read_all(images).shape == (3, 3, edge, edge)
    assert images.scale is None


def test_names_of_networks(snapshot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "model.safetensors").write_bytes(b"")
    for name in (str(snapshot), "none.safetensors", "edm2-img512-s-guid-dino", "org/name", "repository"):
        assert names_network(name), name
    for name in ("data", "data/none", "digits", "none", "a.zip", "edm2-img512-s-guid-dinno"):
        assert not names_network(name), name


def test_repetitions_use_the_seeds_that_follow(snapshot):
    pixels = Pixels()
    judge = Judge.open(["fd"], references_of(open_images("digits"), [pixels], ["fd"]), detector="pixels")
    images = generated(snapshot, range(5, 25))
    seen = []
    (result,) = judge.measure(images, repeat=3, on_images=lambda done, total: seen.append((done, total)))
    assert [record.source.seeds for record in result.records] == ["5-24", "25-44", "45-64"]
    assert seen[-1] == (60, 60)
    values = [record.value for record in result.records]
    assert len(set(values)) == 3
    assert (result.best, result.spread) == (min(values), max(values) - min(values))
    alone = judge.measure(generated(snapshot, range(25, 45)))
    assert alone[0].best == values[1]
    assert json.loads(json.dumps(result.to_dict()))["records"][1]["source"]["seeds"] == "25-44"
    scattered = generated(snapshot, [0, 2, 4, 6, 8, 10])
    with pytest.raises(ValueError, match="as a range such as"):
        judge.measure(scattered, repeat=2)


def test_repetitions_of_a_folder_are_its_parts(folder):
    pixels = Pixels()
    images = open_images(str(folder))
    judge = Judge.open(["fd", "recall"], images, detector="pixels")
    fd, recall = judge.measure(images, repeat=2)
    direct = measure([pictures(70)[1::2]], pixels, ["fd"], judge.references)
    assert fd.records[1].value == direct[0].value  # of a folder of classes each part has all
    assert fd.records[1].source.name.endswith("[1-69, by 2]")
    assert recall.best == max(record.value for record in recall.records)
    with pytest.raises(ValueError, match="two images each"):
        judge.measure(images, repeat=36)


def test_repetitions_of_what_was_drawn_are_ranges_of_its_seeds(snapshot, tmp_path):
    main = open_network(str(snapshot))
    write_images(main, None, DrawSettings(steps=2, label=(0, 1)), range(8), tmp_path / "drawn")
    parts = repetitions(open_images(str(tmp_path / "drawn")), 2)
    assert [list(numbers) for _, numbers in parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]  # each with both classes


def test_arrays_that_are_pictures_are_read_as_they_are_prepared(tmp_path):
    pixels = pictures(6)
    np.savez(tmp_path / "stack.npz", images=pixels.movedim(1, -1).numpy(), others=pixels.flip(0).numpy())
    assert torch.equal(read_all(open_images(str(tmp_path / "stack.npz"), column="images")), pixels)
    (tmp_path / "folder").mkdir()
    for number, one in enumerate(pixels.numpy()):
        np.savez(tmp_path / "folder" / f"{number}.npz", image=one, other=one[:, ::-1])
    assert torch.equal(read_all(open_images(str(tmp_path / "folder"), column="image")), pixels)


def test_ranges_of_seeds():
    assert as_ranges([3, 1, 2, 7]) == "1-3,7"
