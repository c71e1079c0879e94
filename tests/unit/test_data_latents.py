"""Latents: what is stored, how it is drawn and normalized, and the way back to pixels."""

import dataclasses
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from deaths import die_until_done
from diffusers import AutoencoderKL
from pictures import contents, encoded, folder_of, picture
from vaes import save_vae

from unitgain.data.check import check
from unitgain.data.encoder import LatentEncoder
from unitgain.data.export import export
from unitgain.data.fit import Fit
from unitgain.data.latents import encode, is_official
from unitgain.data.loader import Loader
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.data.sheet import draw
from unitgain.data.sources import SourceOptions
from unitgain.data.vae import load_vae, vae_decode
from unitgain.official import VAE_MEAN, VAE_STD
from unitgain.parallel import World


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    save_vae(root / "vae")
    prepare_data(str(folder_of(root / "pictures", each=3)), root / "data", Fit(resolution=16), workers=1, shard=4)
    return root


def make(root, folder, **options):
    return encode(root / "data", folder, str(root / "vae"), **{"world": World(), "batch": 3, **options})


@pytest.fixture(scope="module")
def latents(root):
    make(root, root / "latents")
    return PreparedDataset(root / "latents")


@pytest.mark.parametrize("scale", ["0..1", "-1..1"])
def test_what_is_stored_is_what_the_vae_says(root, tmp_path, scale):
    """[0, 1] by default, as the official networks presume, not the [-1, 1] of diffusers."""
    make(root, tmp_path / "out", **({} if scale == "0..1" else {"pixels": scale}))
    vae = AutoencoderKL.from_pretrained(str(root / "vae"))
    images = PreparedDataset(root / "data").rows(np.arange(9))[0].float() / 255
    with torch.no_grad():
        distribution = vae.encode(images if scale == "0..1" else images * 2 - 1).latent_dist
    data = PreparedDataset(tmp_path / "out")
    stored = data.rows(np.arange(9))[0]
    assert stored.shape == (9, 8, 8, 8)
    torch.testing.assert_close(stored[:, :4], distribution.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stored[:, 4:], distribution.std, rtol=1e-4, atol=1e-5)
    assert data.encoder.pixels == scale
    assert data.classes == ("cat", "dog", "eel")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.key(4) == "dog/1.png"


def test_measured_normalization_gives_each_channel_mean_0_and_std_half(root, latents):
    assert len(latents.encoder.mean) == 4
    rows = np.tile(np.arange(9), 60)
    drawn = latents.encode(latents.rows(rows)[0], torch.Generator().manual_seed(0))
    for channel in range(4):
        values = drawn[:, channel]
        assert abs(values.mean().item()) < 0.01
        assert values.std().item() == pytest.approx(0.5, rel=0.02)


def test_latents_are_drawn_anew(latents):
    stored = latents.rows(np.array([3]))[0]
    first, again, other = (latents.encode(stored, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    mean, std = stored.chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    column = [torch.tensor(values).reshape(1, 4, 1, 1) for values in (latents.encoder.mean, latents.encoder.std)]
    torch.testing.assert_close(first, (mean + std * noise - column[0]) / column[1] * 0.5)


def test_decoding_undoes_the_normalization(root, latents):
    vae = AutoencoderKL.from_pretrained(str(root / "vae"))
    raw = torch.randn(2, 4, 8, 8)
    column = [torch.tensor(values).reshape(1, 4, 1, 1) for values in (latents.encoder.mean, latents.encoder.std)]
    with torch.no_grad():
        images = vae.decode(raw).sample
    for scale, unit in (("0..1", images), ("-1..1", (images + 1) / 2)):
        encoder = dataclasses.replace(latents.encoder, pixels=scale)
        found = encoder.decode((raw - column[0]) / column[1] * 0.5)
        expected = (unit * 255).round().clamp(0, 255)
        assert (found.float() - expected).abs().max() <= 1
        assert (found.float() == expected).float().mean() > 0.99


def test_official_normalization(root, tmp_path):
    make(root, tmp_path / "out", normalization="official")
    data = PreparedDataset(tmp_path / "out")
    assert data.encoder == LatentEncoder(vae=str(root / "vae"), mean=VAE_MEAN, std=VAE_STD)
    assert VAE_MEAN == (5.81, 3.25, 0.12, -2.15)
    assert VAE_STD == (4.17, 4.62, 3.71, 3.28)
    exact = torch.zeros(1, 8, 1, 1)
    exact[0, :4, 0, 0] = torch.tensor(VAE_MEAN) + 2 * torch.tensor(VAE_STD)
    torch.testing.assert_close(data.encode(exact), torch.ones(1, 4, 1, 1))
    assert is_official("stabilityai/sd-vae-ft-mse")
    assert is_official("/models/sd-vae-ft-mse")
    assert not is_official("stabilityai/sd-vae-ft-ema")


def test_killed_at_any_moment_it_ends_with_the_same_bytes(root, latents, tmp_path):
    load_vae(str(root / "vae"), torch.device("cpu"))
    died = die_until_done(lambda: make(root, tmp_path / "killed"), moments=(2, 6, 8, 12), longest=0.2)
    assert died >= 4
    assert contents(tmp_path / "killed") == contents(latents.folder)


@pytest.mark.parametrize("finished", [0, 2])
def test_it_may_be_tried_again_with_smaller_batches(root, latents, tmp_path, monkeypatch, finished):
    """And, as long as no shard is finished, with any other settings."""
    done = []

    def fail(count, all):
        done.append(count)
        if len(done) > 2 * finished:
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        make(root, tmp_path / "out", batch=2, on_progress=fail)
    with nullcontext() if not finished else pytest.raises(ValueError, match=r"pixels: '0..1' -> '-1..1'"):
        make(root, tmp_path / "out", pixels="-1..1")
        shutil.rmtree(tmp_path / "out")
    monkeypatch.chdir(root)
    encode(root / "data", tmp_path / "out", "./vae", world=World(), batch=1)
    rows = np.arange(9)
    torch.testing.assert_close(PreparedDataset(tmp_path / "out").rows(rows)[0], latents.rows(rows)[0])


def test_pictures_of_latents(root, latents):
    pictures = draw(latents, np.array([5, 0]))
    mean = latents.rows(np.array([5, 0]))[0][:, :4]
    assert torch.equal(pictures, vae_decode(load_vae(str(root / "vae"), torch.device("cpu")), mean))
    data = PreparedDataset(root / "data")
    assert torch.equal(draw(data, np.array([5])), data.rows(np.array([5]))[0])


def test_what_does_not_fit_is_refused(root, latents, tmp_path):
    with pytest.raises(ValueError, match="holds latents already"):
        encode(latents.folder, tmp_path / "x", str(root / "vae"), world=World())
    prepare_data(str(root / "pictures"), tmp_path / "odd", Fit(resolution=9), workers=1)
    with pytest.raises(ValueError, match="9 pixels are no multiple"):
        encode(tmp_path / "odd", tmp_path / "x", str(root / "vae"), world=World())
    prepare_data(str(root / "pictures"), tmp_path / "grey", Fit(resolution=8, channels=1), workers=1)
    with pytest.raises(ValueError, match=r"takes 3 channels, .* has 1"):
        encode(tmp_path / "grey", tmp_path / "x", str(root / "vae"), world=World())
    with pytest.raises(ValueError, match=r"cannot load the VAE '.*nowhere'"):
        encode(root / "data", tmp_path / "x", str(tmp_path / "nowhere"), world=World())
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match=r"other settings .*vae_fingerprint"):
        encode(root / "data", latents.folder, save_vae(tmp_path / "other", seed=1), world=World(), batch=3)
    with pytest.raises(ValueError, match="the mirror image of a latent"):
        Loader(latents, 0, flip=True)


@pytest.fixture(scope="module")
def told(root):
    """Pictures with an amount, which some lack, tokens and an image."""
    rows = [
        {"file_name": f"{row}.png", "age": None if row == 1 else row, "words": [[row, 1.0]] * row, "small": "small.png"}
        for row in range(5)
    ]
    folder = root / "told"
    folder.mkdir()
    for row in range(5):
        (folder / f"{row}.png").write_bytes(encoded(picture(row, 16, 16)))
    (folder / "small.png").write_bytes(encoded(picture(9, 4, 4)))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = SourceOptions(conditions=("age", "words:tokens", "small"), allow_missing=True)
    prepare_data(str(folder), root / "told-16", Fit(resolution=16), options=options, workers=1, shard=2)
    return root / "told-16"


def test_conditions_go_with_their_latents(root, told, tmp_path):
    encode(told, tmp_path / "out", str(root / "vae"), world=World())
    before, after = PreparedDataset(told), PreparedDataset(tmp_path / "out")
    assert after.manifest.conditions == before.manifest.conditions and len(after.manifest.conditions) == 3
    rows = np.arange(5)
    one, other = before.conditions_of(rows), after.conditions_of(rows)
    for name in ("age", "words", "small"):
        assert torch.equal(one.values[name], other.values[name]) and torch.equal(one.masks[name], other.masks[name])
    assert check(tmp_path / "out").healthy


def test_images_larger_than_latents_are_no_conditions_of_them(root, told, tmp_path):
    (root / "told" / "small.png").write_bytes(encoded(picture(9, 16, 16)))
    options = SourceOptions(conditions=("small",))
    prepare_data(str(root / "told"), tmp_path / "data", Fit(resolution=16), options=options, workers=1)
    with pytest.raises(ValueError, match=r"condition small \[3, 16, 16\] is larger than its latents, 8x8"):
        encode(tmp_path / "data", tmp_path / "out", str(root / "vae"), world=World())


def test_an_export_says_what_it_leaves_out(told, tmp_path):
    notes = []
    export(PreparedDataset(told), tmp_path / "a.zip", say=notes.append)
    assert len(notes) == 1 and notes[0].endswith("age, small, words")


def test_the_loader_hands_out_what_is_stored(latents):
    with Loader(latents, 0, workers=2) as loader:
        stored, labels = loader.fetch(0, 9)
    assert torch.equal(stored.sum(dim=(1, 2, 3)).sort()[0], latents.rows(np.arange(9))[0].sum(dim=(1, 2, 3)).sort()[0])
    assert labels.bincount().tolist() == [3, 3, 3]
