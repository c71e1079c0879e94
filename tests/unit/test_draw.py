"""Folders of images: what is kept, what is drawn again, and that they do not depend on how the work was split."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from vaes import save_vae

import unitgain
from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.data.encoder import LatentEncoder, PixelEncoder
from unitgain.data.vae import load_vae
from unitgain.denoiser import Denoiser
from unitgain.draw import DrawSettings, Network, decoder, guide_by, open_network, write_images
from unitgain.draw.folder import ImageFolder
from unitgain.infer import Prepared, fastest_dtype, prepare
from unitgain.parallel import World
from unitgain.sample import Euler, StochasticHeun
from unitgain.serial import to_dict

SETTINGS = DrawSettings(steps=2)


def network(spec, seed=0, **record):
    torch.manual_seed(seed)
    denoiser = Denoiser(spec).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    denoiser.encoder = to_dict(PixelEncoder())
    return Network(name=f"network {seed}", denoiser=denoiser, record={"sha256": f"{seed:064d}", **record})


@pytest.fixture(scope="module")
def spec():
    from unitgain.arch import NetworkSpec

    return NetworkSpec(
        resolution=8, channels=1, label_dim=3, model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8
    )


@pytest.fixture(scope="module")
def main(spec):
    return network(spec)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("prepared", [False, True])
def test_the_first_64_images_are_the_same_bytes_for_any_batch(spec, tmp_path, prepared):
    small = spec.replace(resolution=4, channel_mult=(1,), attn_resolutions=())  # a batch of 1 is evaluated as one of 64
    main, guide = network(small), network(small.replace(label_dim=0), seed=1)
    if prepared:
        main, guide = (dataclasses.replace(one, denoiser=prepare(one.denoiser, torch.float32)) for one in (main, guide))
    settings = SETTINGS.replace(guidance=1.5, sampler=Euler())
    for batch in (1, 7, 64):
        drawn = write_images(main, guide, settings, range(64), tmp_path / str(batch), batch=batch)
        assert (drawn.total, drawn.new) == (64, 64)
    assert len(tree(tmp_path / "64")) == 65
    assert tree(tmp_path / "1") == tree(tmp_path / "7") == tree(tmp_path / "64")


def test_finished_images_are_kept_and_damaged_ones_drawn_again(main, tmp_path):
    write_images(main, None, SETTINGS, range(6), tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    write_images(main, None, SETTINGS, range(4), tmp_path / "out")
    first = tmp_path / "out" / "000000"
    kept = (first / "000000.png").stat().st_mtime_ns
    (first / "000001.png").write_bytes(b"damaged")
    (first / "000002.png").unlink()
    drawn = write_images(main, None, SETTINGS, range(6), tmp_path / "out")
    assert (drawn.total, drawn.new) == (6, 4)
    assert (first / "000000.png").stat().st_mtime_ns == kept
    assert tree(tmp_path / "out") == whole


class Interrupted(Exception):
    pass


def test_an_interrupted_call_is_gone_on_with(main, tmp_path):
    write_images(main, None, SETTINGS, range(6), tmp_path / "whole")
    seen = []
    for out in (tmp_path / "out", tmp_path / "out.zip"):
        root = out if out.suffix == "" else tmp_path / ".out.zip.parts"

        def interrupt(done, total):
            if done > 4:
                raise Interrupted

        with pytest.raises(Interrupted):
            write_images(main, None, SETTINGS, range(6), out, batch=2, on_progress=interrupt)
        assert not (root / "manifest.json").exists()
        assert not out.is_file()
        with open(root / ".journal-0.jsonl", "a") as journal:
            journal.write('{"seed": 4, "cla')  # the process died while it wrote
        drawn = write_images(main, None, SETTINGS, range(6), out, on_progress=lambda *done: seen.append(done))
        assert (seen[0], seen[-1], drawn.total, drawn.new) == ((4, 6), (6, 6), 6, 2)
        seen.clear()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name != "dataset.json"}
    assert files == tree(tmp_path / "whole")


def test_other_settings_or_networks_are_refused(main, spec, tmp_path):
    write_images(main, None, SETTINGS, range(2), tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(ValueError, match=r"settings\.steps: 2 -> 3"):
        write_images(main, None, SETTINGS.replace(steps=3), range(4), tmp_path / "out")
    with pytest.raises(ValueError, match=r"network\.sha256"):
        write_images(network(spec, seed=2), None, SETTINGS, range(4), tmp_path / "out")
    with pytest.raises(ValueError, match=r"guide: None"):
        write_images(main, None, SETTINGS.replace(guidance=2.0), range(4), tmp_path / "out")
    moved = Network(name="elsewhere", denoiser=main.denoiser, record=main.record)
    write_images(moved, None, SETTINGS, range(2), tmp_path / "out")
    assert tree(tmp_path / "out").keys() == before.keys()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("")
    with pytest.raises(FileExistsError, match="is not empty"):
        write_images(main, None, SETTINGS, range(2), tmp_path / "other")


def test_an_archive_grows_and_a_strangers_is_left_alone(main, tmp_path):
    out = tmp_path / "out.zip"
    write_images(main, None, SETTINGS, range(3), out)
    small = out.read_bytes()
    assert write_images(main, None, SETTINGS, range(3), out).new == 0
    assert out.read_bytes() == small
    with pytest.raises(ValueError, match="drawn otherwise"):
        write_images(main, None, SETTINGS.replace(steps=3), range(3), out)
    assert write_images(main, None, SETTINGS, range(5), out, contact_sheet=True).new == 2
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.size[0] > 8
    write_images(main, None, SETTINGS, range(5), tmp_path / "direct.zip")
    assert out.read_bytes() == (tmp_path / "direct.zip").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.zip", "out.png", "out.zip"]
    out.write_bytes(b"something else")
    with pytest.raises(FileExistsError, match="no archive that this command wrote"):
        write_images(main, None, SETTINGS, range(3), out)


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_nothing_is_written_where_nothing_is_new(main, tmp_path, monkeypatch, name):
    write_images(main, None, SETTINGS, range(2), tmp_path / name)
    file = tmp_path / name if name.endswith(".zip") else tmp_path / name / "manifest.json"
    before = file.read_bytes(), file.stat().st_mtime_ns
    monkeypatch.setattr("unitgain.draw.run.__version__", "later")
    drawn = write_images(main, None, SETTINGS, range(2), tmp_path / name)
    assert (drawn.total, drawn.new) == (2, 0)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_damaged_members_are_drawn_again_when_an_archive_grows(main, tmp_path):
    out = tmp_path / "out.zip"
    write_images(main, None, SETTINGS, range(3), out)
    with zipfile.ZipFile(out) as archive:
        image = archive.read("000000/000001.png")
    out.write_bytes(out.read_bytes().replace(image, bytes(len(image))))
    drawn = write_images(main, None, SETTINGS, [0, 1, 3], out)
    assert (drawn.total, drawn.new) == (4, 2)
    write_images(main, None, SETTINGS, range(4), tmp_path / "direct.zip")
    assert out.read_bytes() == (tmp_path / "direct.zip").read_bytes()


def test_images_that_are_gone_are_not_listed(main, tmp_path):
    out = tmp_path / "out"
    write_images(main, None, SETTINGS, range(3), out)
    (out / "000000/000001.png").unlink()
    drawn = write_images(main, None, SETTINGS, [0, 3], out)
    assert (drawn.total, drawn.new) == (3, 1)
    images = json.loads((out / "manifest.json").read_text())["images"]
    assert [image["seed"] for image in images] == [0, 2, 3]


def test_an_unconditional_archive_has_no_labels(spec, tmp_path):
    write_images(network(spec.replace(label_dim=0)), None, SETTINGS, range(2), tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}


def test_nothing_is_written_when_the_request_is_wrong(main, spec, tmp_path):
    with pytest.raises(ValueError, match="lo < hi"):
        SETTINGS.replace(guidance=2.0, interval=(3.0, 1.0))
    with pytest.raises(ValueError, match="label 3 is out of range"):
        write_images(main, None, SETTINGS.replace(label=3), range(2), tmp_path / "out")
    with pytest.raises(ValueError, match="4 channels"):
        write_images(network(spec.replace(channels=4)), None, SETTINGS, range(2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shares_of_processes_join_to_one_folder(main, tmp_path):
    # what each of three processes writes, one after the other; `finish` is that of the first
    write_images(main, None, SETTINGS, range(6), tmp_path / "whole")
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    about = {key: value for key, value in manifest.items() if key not in ("images", "format")}
    pixels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    for rank in range(3):
        folder = ImageFolder(tmp_path / "out", about, rank)
        for seed in World(rank, 3).share(range(6)):
            folder.write(seed, 1, pixels)
    folder = ImageFolder(tmp_path / "out", about)
    folder.check()
    assert set(folder.finished()) == set(range(6))
    assert [entry["seed"] for entry in folder.finish()] == list(range(6))
    assert tree(tmp_path / "out").keys() == tree(tmp_path / "whole").keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exact": True, "compile": True}, "exact and compile exclude each other"),
        ({"exact": True, "no_winograd": True}, "exact and no_winograd exclude each other"),
        ({"exact": True, "kernels": True}, "exact and kernels exclude each other"),
        ({"exact": True, "graph": True}, "exact and graph exclude each other"),
        ({"compile": True, "graph": True}, "compile and graph exclude each other"),
        ({"guidance": float("inf")}, "must be finite"),
        ({"steps": 0}, "num_steps >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        DrawSettings(**changes)


def test_a_sampler_does_not_hide_settings_of_all_samplers():
    @dataclasses.dataclass(frozen=True)
    class Own(Euler):
        name = "own"
        rho: float = 3.0

    with pytest.raises(ValueError, match="own has a setting rho"):
        DrawSettings(sampler=Own())


def test_settings_are_json_those_of_the_sampler_too():
    sampler = StochasticHeun(S_churn=7.0, S_max=float("inf"))
    record = DrawSettings(sampler=sampler, interval=(0.1, 2.0), label=3).record("cpu")
    record = json.loads(json.dumps(record, allow_nan=False))
    assert (record["sampler"], record["S_churn"], record["S_max"]) == ("stochastic_heun", 7.0, "inf")
    assert (record["interval"], record["class"]) == ([0.1, 2.0], 3)
    assert not {"compile", "no_winograd", "kernels", "graph"} & record.keys()
    changed = {"no_winograd": True, "kernels": True, "graph": True}
    assert DrawSettings(**changed).record("cpu").items() >= changed.items()


def test_the_precision_that_is_chosen_by_itself_is_recorded():
    fastest = str(fastest_dtype("cpu")).removeprefix("torch.")
    assert DrawSettings(dtype="auto").record("cpu")["dtype"] == fastest
    assert DrawSettings(dtype="auto", exact=True).record("cpu")["dtype"] == "float32"


def test_images_in_one_call(main, spec, vae, tmp_path):
    images = unitgain.sample_images(main.denoiser, range(3), label=[0, 2, 1], settings=SETTINGS)
    write_images(main, None, SETTINGS.replace(label=2), range(2), tmp_path / "out")
    with Image.open(tmp_path / "out/000000/000001.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(images[1]))
    with pytest.raises(ValueError, match="no seeds"):
        unitgain.sample_images(main.denoiser, [], settings=SETTINGS)
    of_class = unitgain.sample_images(main.denoiser, [1], settings=SETTINGS.replace(label=2))
    assert np.array_equal(np.asarray(of_class[0]), np.asarray(images[1]))
    latent = network(spec.replace(channels=4)).denoiser
    latent.encoder = to_dict(LatentEncoder(vae=vae, mean=(0.0,) * 4, std=(1.0,) * 4))
    assert unitgain.sample_pixels(latent, [5], settings=SETTINGS).shape == (1, 3, 16, 16)


def test_a_weight_of_1_is_the_main_network_itself(main):
    assert guide_by(main, None, SETTINGS) is main.denoiser


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A small random VAE on the disk: 4 channels of 8x8 become 3 of 16x16."""
    return save_vae(tmp_path_factory.mktemp("vae"))


def test_latents_are_decoded_the_same_in_any_batch(spec, vae, tmp_path):
    latent = network(spec.replace(channels=4))
    latent.denoiser.encoder = to_dict(LatentEncoder(vae=vae, mean=(0.1, 0.2, 0.3, 0.4), std=(1.0, 2.0, 3.0, 4.0)))
    for batch in (1, 3, 4):
        write_images(latent, None, SETTINGS, range(4), tmp_path / str(batch), batch=batch)
    assert tree(tmp_path / "1") == tree(tmp_path / "3") == tree(tmp_path / "4")
    with Image.open(tmp_path / "1" / "000000" / "000000.png") as image:
        assert (image.size, image.mode) == ((16, 16), "RGB")
    latents = torch.randn(2, 4, 8, 8)
    raw = latents * torch.tensor([2.0, 4.0, 6.0, 8.0]).reshape(4, 1, 1) + torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(
        4, 1, 1
    )
    expected = load_vae(vae, torch.device("cpu")).decode(raw).sample
    decoded = decoder(latent.encoder, 4)(latents).float() / 255
    assert (decoded - expected.clamp(0, 1)).abs().max() < 1 / 255


def test_latents_from_elsewhere_are_decoded_where_the_network_is(vae, monkeypatch):
    """As those of data, which are on the CPU: to load the VAE there too would cost the one that is loaded."""
    places = []

    def decode(encoder, latents):
        places.append(latents.device.type)
        return torch.zeros(len(latents), 3, 16, 16, dtype=torch.uint8)

    monkeypatch.setattr("unitgain.draw.decode.load_vae", lambda name, device: None)
    monkeypatch.setattr(LatentEncoder, "decode", decode)
    encoder = to_dict(LatentEncoder(vae=vae, mean=(0.0,) * 4, std=(1.0,) * 4))
    assert decoder(encoder, 4, "meta")(torch.zeros(3, 4, 8, 8)).shape == (3, 3, 16, 16)
    assert set(places) == {"meta"}


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"contact_sheet": True, "columns": 0}])
def test_what_cannot_be_drawn_so_leaves_nothing(main, tmp_path, wrong):
    with pytest.raises(ValueError, match="at least 1"):
        write_images(main, None, SETTINGS, range(2), tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_vae_that_is_not_there_or_not_needed_is_refused(main, spec, tmp_path, monkeypatch):
    latent = network(spec.replace(channels=4))
    latent.denoiser.encoder = to_dict(LatentEncoder(vae=str(tmp_path / "nowhere"), mean=(0.0,) * 4, std=(1.0,) * 4))
    with pytest.raises(ValueError, match="nowhere"):
        write_images(latent, None, SETTINGS, range(2), tmp_path / "out")
    monkeypatch.setattr("unitgain.draw.images.generate", lambda *args, **settings: pytest.fail("drawn before"))
    with pytest.raises(ValueError, match="nowhere"):
        unitgain.sample_pixels(latent.denoiser, range(2), settings=SETTINGS)
    with pytest.raises(ValueError, match="draws pixels"):
        write_images(main, None, SETTINGS.replace(vae="some"), range(2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_are_opened_with_what_a_record_says(tmp_path, spec):
    with pytest.raises(FileNotFoundError, match="no snapshot at"):
        open_network(str(tmp_path / "missing.safetensors"))
    with pytest.raises(ValueError, match="no picture of 1 or 3"):
        decoder(to_dict(PixelEncoder()), channels=2)


def test_networks_are_prepared_unless_they_are_to_be_exact(tmp_path, spec, main):
    """To rounding the same; images of the two are not put together."""
    header = SnapshotHeader(
        network=spec, sigma_data=0.5, nimg=0, profile={"kind": "raw"}, recipe="none", encoder=main.encoder
    )
    path = tmp_path / "net.safetensors"
    write_snapshot(path, header, main.denoiser.state_dict())
    prepared, exact = open_network(str(path)), open_network(str(path), settings=DrawSettings(exact=True))
    assert isinstance(prepared.denoiser, Prepared) and not isinstance(exact.denoiser, Prepared)
    noise, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(prepared.denoiser(noise, 0.7, label), exact.denoiser(noise, 0.7, label))
    assert (prepared.record, prepared.encoder) == (exact.record, exact.encoder)
    write_images(exact, None, SETTINGS.replace(exact=True), range(2), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["exact"] is True
    with pytest.raises(ValueError, match=r"settings\.exact: True -> False"):
        write_images(prepared, None, SETTINGS, range(4), tmp_path / "out")
