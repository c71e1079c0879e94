"""Drawing from pictures, and animations, in the library and on the command line."""

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vaes import save_vae

import unitgain
from unitgain.arch import NetworkSpec
from unitgain.checkpoint.snapshot import SnapshotHeader, write_snapshot
from unitgain.cli.main import read
from unitgain.data.encoder import LatentEncoder, PixelEncoder
from unitgain.data.images import to_image
from unitgain.denoiser import Denoiser
from unitgain.draw import (
    Animation,
    DrawSettings,
    FromPicture,
    decoder,
    draw_images,
    from_picture,
    sample_pixels,
    write_interpolation,
    write_path,
)
from unitgain.guide import Guided
from unitgain.infer import prepare
from unitgain.sample import Euler
from unitgain.serial import to_dict

SETTINGS = DrawSettings(steps=2, sampler=Euler())
SPEC = NetworkSpec(
    resolution=4, channels=1, label_dim=3, model_channels=8, channel_mult=(1,), num_blocks=1, channels_per_head=8
)


def network(**changes):
    torch.manual_seed(0)
    denoiser = Denoiser(SPEC.replace(**changes)).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    denoiser.encoder = to_dict(PixelEncoder(mean=77.7, std=83.1))
    return denoiser


@pytest.fixture(scope="module")
def denoiser():
    return network()


@pytest.fixture(scope="module")
def picture():
    return torch.randint(0, 256, (1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mask():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:, 2:] = True
    return mask


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    """A network of 4x4 latents, whose pictures are 8x8."""
    denoiser = network(channels=4)
    vae = save_vae(tmp_path_factory.mktemp("vae"))
    denoiser.encoder = to_dict(LatentEncoder(vae=vae, mean=(0.1, 0.2, 0.3, 0.4), std=(1.0, 2.0, 3.0, 4.0)))
    return denoiser


@pytest.fixture(scope="module")
def snapshot(denoiser, tmp_path_factory):
    header = SnapshotHeader(
        network=SPEC, sigma_data=0.5, nimg=0, profile={"kind": "raw"}, recipe="none", encoder=denoiser.encoder
    )
    path = tmp_path_factory.mktemp("snapshot") / "net.safetensors"
    write_snapshot(path, header, denoiser.state_dict())
    return path


@pytest.fixture
def sample(call, snapshot):
    """`unitgain sample` of the snapshot, in two steps."""
    return lambda *argv, code=0: call(
        "sample", snapshot, "--steps", "2", "--sampler", "euler", "--exact", "--device", "cpu", *argv, code=code
    )


def test_a_picture_is_the_same_from_a_file_pillow_an_array_or_a_tensor(denoiser, picture, tmp_path):
    image = to_image(picture[0][None])
    image.save(tmp_path / "picture.png")
    forms = [tmp_path / "picture.png", str(tmp_path / "picture.png"), image, np.asarray(image), picture, picture[0]]
    drawn = [sample_pixels(denoiser, [5], settings=SETTINGS, start=FromPicture(picture=one)) for one in forms]
    assert all(torch.equal(drawn[0], one) for one in drawn[1:])
    near = sample_pixels(denoiser, [5], settings=SETTINGS, start=FromPicture(picture=image, sigma_start=0.0021))
    assert (near.int() - picture.int()).abs().max() <= 1
    assert (drawn[0].int() - picture.int()).abs().max() > 10


@pytest.mark.parametrize("make", [lambda one: one, lambda one: Guided(one, None, 1.5), prepare])
def test_kept_pixels_are_those_of_the_picture_and_hidden_ones_have_no_part(denoiser, picture, mask, make):
    drawing, other = make(denoiser), torch.where(mask, 255 - picture, picture)

    def drawn(picture, **options):
        start = FromPicture(picture=picture, mask=mask, resample=2, **options)
        return sample_pixels(drawing, range(3), settings=SETTINGS, start=start)

    images = drawn(picture)
    assert torch.equal(images[..., ~mask], picture[..., ~mask].expand(3, 1, -1))
    assert torch.equal(images, drawn(other))
    assert not torch.equal(drawn(picture, sigma_start=0.3), drawn(other, sigma_start=0.3))  # here they have


def test_whoever_draws_from_a_picture_gets_the_pixels_that_are_kept(denoiser, picture, mask):
    settings = from_picture(denoiser, FromPicture(picture=picture, mask=mask, resample=1), SETTINGS)
    ((_, _, images),) = draw_images(denoiser, decoder(denoiser.encoder, 1), range(3), settings)
    assert torch.equal(images[..., ~mask], picture[..., ~mask].expand(3, 1, -1))


def test_pixels_of_latents_are_kept_too(latent):
    picture = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3:, 5:] = True
    drawn = sample_pixels(latent, range(2), settings=SETTINGS, start=FromPicture(picture=picture, mask=mask))
    assert drawn.shape == (2, 3, 8, 8)
    assert torch.equal(drawn[..., ~mask], picture[..., ~mask].expand(2, 3, -1))
    other = torch.where(mask, 255 - picture, picture)
    assert torch.equal(
        drawn, sample_pixels(latent, range(2), settings=SETTINGS, start=FromPicture(picture=other, mask=mask))
    )
    near = FromPicture(picture=picture, sigma_start=0.0021)
    decoded = from_picture(latent, near, SETTINGS).sampler.image[None]
    found = sample_pixels(latent, [1], settings=SETTINGS, start=near)
    assert (found.int() - unitgain.to_pixels(latent, decoded).int()).abs().float().mean() < 5


def test_a_picture_of_another_size_is_fitted_unless_there_is_a_mask(denoiser, mask):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    settings = from_picture(denoiser, FromPicture(picture=wide), SETTINGS)
    assert settings.sampler.pixels.unique().tolist() == [200] and settings.sigma_max == 1.0
    with pytest.raises(ValueError, match="the picture is 16x8, and the network draws 4x4"):
        from_picture(denoiser, FromPicture(picture=wide, mask=mask), SETTINGS)
    oblong = network(resolution=(2, 4))
    assert sample_pixels(oblong, [0], settings=SETTINGS, start=FromPicture(picture=wide)).shape == (1, 1, 2, 4)
    with pytest.raises(ValueError, match="of 1 dimensions, and a picture has two"):
        from_picture(network(resolution=(4,)), FromPicture(picture=wide), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": np.full((4, 4), 100, np.uint8)}, "16 pixels that are neither black"),
        ({"mask": np.zeros((4, 4), np.uint8)}, "black everywhere"),
        ({"mask": np.zeros((4, 5), np.uint8)}, "the mask is 5x4, and the network draws 4x4"),
        ({"sigma_start": 0.001}, "must be above sigma_min = 0.002"),
        ({"picture": np.zeros((4, 4))}, "the picture is float64"),
        ({"picture": torch.zeros(4, 4, 4, dtype=torch.uint8)}, "1 or 3 channels, not 4"),
        ({"picture": None}, "is missing"),
    ],
)
def test_what_is_no_picture_or_mask_for_the_network_is_refused(denoiser, picture, changes, words):
    with pytest.raises(ValueError, match=words):
        from_picture(denoiser, FromPicture(**{"picture": picture, **changes}), SETTINGS)


def test_settings_that_do_not_go_together_are_refused(mask):
    for options, words in (
        ({"mask": mask}, "mask is for drawing from a picture"),
        ({"sigma_start": 1.0}, "sigma_start is for drawing from a picture"),
        ({"picture": "a.png", "resample": 2}, "with a mask"),
        ({"picture": "a.png", "mask": mask, "resample": 0}, "at least 1"),
        ({"picture": "a.png", "sigma_start": -1.0}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            FromPicture(**options)


def test_denoisers_make_pictures_and_previews_show_each_step(denoiser):
    seen = []
    pictures = unitgain.sample_images(denoiser, range(2), settings=SETTINGS, on_step=seen.append)
    assert [str(one) for one in seen] == ["evaluation 1 of 2, sigma 80", "evaluation 2 of 2, sigma 0.002"]
    for preview in seen:
        with Image.open(io.BytesIO(preview._repr_png_())) as shown:
            assert np.array_equal(np.asarray(shown), np.asarray(preview.image()))
    assert seen[-1].denoised().shape == (2, 1, 4, 4)
    parts = unitgain.generate(denoiser, range(2), SETTINGS.sigmas(), sampler=Euler())
    drawn = torch.cat([images for *_, images in parts])
    for make in (lambda one: one, lambda one: Guided(one, None, 1.5), lambda one: prepare(one, torch.float32)):
        again = make(denoiser).to_images(drawn)
        assert [np.asarray(one).tolist() for one in again] == [np.asarray(one).tolist() for one in pictures]


def test_the_command_draws_from_a_picture_and_says_so(sample, picture, mask, tmp_path):
    to_image(picture).save(tmp_path / "picture.png")
    to_image(mask[None].to(torch.uint8) * 255).save(tmp_path / "mask.png")
    start = ["--from", tmp_path / "picture.png", "--mask", tmp_path / "mask.png"]
    sample(*start, "--seeds", "0-2", "--out", tmp_path / "out")
    with Image.open(tmp_path / "out/000000/000001.png") as image:
        drawn = torch.from_numpy(np.array(image))
    assert torch.equal(drawn[~mask], picture[0][~mask])
    settings = json.loads((tmp_path / "out/manifest.json").read_text())["settings"]
    assert len(settings["from"]) == len(settings["mask"]) == 64
    assert (settings["sampler"], settings["resample"], settings["sigma_max"]) == ("euler", 4, 80.0)
    sample(*start, "--seeds", "0-3", "--out", tmp_path / "out")  # goes on
    (tmp_path / "picture.png").write_bytes((tmp_path / "mask.png").read_bytes())
    assert "drawn otherwise" in sample(*start, "--seeds", "0-4", "--out", tmp_path / "out", code=2).err


def frames_of(path):
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            yield np.asarray(image.convert("RGB")).copy(), image.info["duration"]


@pytest.mark.parametrize("name", ["between.gif", "between.webp"])
def test_an_animation_goes_from_seed_to_seed(sample, tmp_path, name):
    said = sample("--interpolate", "3,7,3", "--frames", "4", "--class", "1", "--out", tmp_path / name).out
    assert "7 frames" in said
    (first, duration), *_, (last, _) = frames_of(tmp_path / name)
    assert np.array_equal(first, last) and duration == pytest.approx(83, abs=5)


def cells(picture):
    """The images of a grid of 4x4 pixels, each 16 wide, by row and column."""
    small = np.asarray(picture)[8::16, 8::16]
    return [
        [small[y : y + 4, x : x + 4].tolist() for x in range(1, small.shape[1], 5)] for y in range(1, len(small), 5)
    ]


def images_of(folder, seeds):
    return [np.asarray(Image.open(folder / f"000000/{seed:06d}.png")).tolist() for seed in seeds]


def test_a_strip_has_a_row_for_two_seeds(sample, tmp_path):
    sample("--interpolate", "3,7,5", "--frames", "4", "--out", tmp_path / "strip.png")
    sample("--seeds", "3,7,5", "--out", tmp_path / "ends")
    first, second = cells(Image.open(tmp_path / "strip.png"))
    assert [first[0], first[3], second[0], second[3]] == images_of(tmp_path / "ends", [3, 7, 7, 5])
    assert len(first) == 4 and first[1] not in (first[0], first[3])


def test_a_path_ends_with_the_images(sample, tmp_path):
    sample("--seeds", "0-1", "--out", tmp_path / "out")
    ends = images_of(tmp_path / "out", [0, 1])
    assert "3 frames" in sample("--path", "--seeds", "0-1", "--out", tmp_path / "path.webp").out
    *_, (last, hold) = frames_of(tmp_path / "path.webp")
    left, right = np.split(last[..., 0], 2, axis=1)
    assert cells(left) == cells(right) == [ends] and hold > 1000
    sample("--path", "--seeds", "0-1", "--frames", "2", "--batch", "1", "--out", tmp_path / "path.png")
    strip = cells(Image.open(tmp_path / "path.png"))  # noisy and denoised of each, from left to right
    assert [row[-1] for row in strip] == [ends[0], ends[0], ends[1], ends[1]]
    assert all(len(row) == 2 for row in strip) and strip[0][0] != strip[1][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--path", "--interpolate", "3,7"], "two animations"),
        (["--interpolate", "3"], "two seeds or more"),
        (["--interpolate", "3,7", "--frames", "1"], "must be 2 to"),
        (["--interpolate", "3,7", "--out", "samples"], "must end in .gif, .webp, .png"),
        (["--interpolate", "3,7", "--seeds", "0-3"], "leave out --seeds"),
        (["--interpolate", "3,7", "--class", "0,1"], "name one"),
        (["--frames", "4"], "are for animations"),
        (["--path", "--grid"], "for a folder of images"),
        (["--path", "--seeds", "0-999999"], "name fewer seeds"),
        (["--mask", "mask.png"], "--from PICTURE"),
        (["--from", "nowhere.png"], "there is no picture at nowhere.png"),
        (["--from", "black.png", "--sigma-max", "5"], "sigma_start (--sigma-start 5)"),
        (
            ["--from", "black.png", "--mask", "white.png", "--sigma-start", "3", "--sigma-max", "5"],
            "sigma_start (--sigma-start 3)",
        ),
        (["--path", "--out", "dir.gif"], "dir.gif is a folder: name a file"),
        (["--interpolate", "3,7", "--out", "dir.gif"], "dir.gif is a folder: name a file"),
        (["--path", "--fps", "5", "--out", "strip.png"], "a strip of pictures, which has no speed"),
        (["--guide", "self", "--guidance", "2", "--interval", "90", "100"], "guides nothing"),
        (["--guide", "self", "--guidance", "1"], "--guidance 1 is none: leave --guide out"),
        (["--seeds", ""], "cannot read the seeds ''"),
    ],
)
def test_wrong_options_are_refused_in_a_line_before_anything_is_drawn(sample, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.gif").mkdir()
    for name, color in (("black.png", 0), ("white.png", 255)):
        Image.new("L", (4, 4), color).save(name)
    assert words in sample(*options, code=2).err.replace("\n", " ")
    assert {path.name for path in tmp_path.iterdir()} == {"dir.gif", "black.png", "white.png"}
    assert not list((tmp_path / "dir.gif").iterdir())


def test_the_highest_noise_level_is_free_where_the_mask_hides_what_is_under_it(sample, tmp_path):
    for name, color in (("black.png", 0), ("white.png", 255)):
        Image.new("L", (4, 4), color).save(tmp_path / name)
    masked = ("--from", tmp_path / "black.png", "--mask", tmp_path / "white.png")
    sample(*masked, "--sigma-max", 5, "--seeds", 0, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["sigma_max"] == 5


def test_a_path_of_fewer_frames_than_asked_for_says_why(sample, tmp_path):
    said = sample("--path", "--seeds", "0", "--frames", "9", "--out", tmp_path / "path.gif").out
    assert "3 frames" in said and "no more noise levels (--steps)" in said


def test_a_path_that_is_too_large_is_refused_before_it_is_drawn(denoiser, tmp_path, monkeypatch):
    monkeypatch.setattr("unitgain.draw.animation.draw_images", lambda *args, **options: pytest.fail("drawn"))
    with pytest.raises(ValueError, match="1000000 images of 4x4 are too much"):
        write_path(denoiser, range(1_000_000), tmp_path / "path.gif", SETTINGS, Animation())


def test_paths_and_ways_of_latents_are_pictures(latent, tmp_path):
    assert write_path(latent, [0], tmp_path / "path.webp", SETTINGS, Animation(frames=2), batch=1) == 2
    assert write_interpolation(latent, [0, 1], tmp_path / "way.webp", SETTINGS, Animation(frames=3)) == 3
    (expected,) = unitgain.sample_images(latent, [0], settings=SETTINGS)
    *_, (last, _) = frames_of(tmp_path / "path.webp")
    (first, _), *_ = frames_of(tmp_path / "way.webp")
    for shown in (last[:, last.shape[1] // 2 :], first):
        assert np.array_equal(shown[8:-8:8, 8:-8:8], np.asarray(expected))


def test_a_damaged_picture_is_named(sample, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG damaged")
    assert "damaged.png cannot be decoded" in sample("--from", tmp_path / "damaged.png", code=1).err


PAGE = (Path(__file__).parents[2] / "docs" / "drawing.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_understood():
    lines = re.findall(r"^unitgain .*", PAGE, flags=re.MULTILINE)
    commands = [read(shlex.split(line, comments=True)[1:]) for line in lines]
    assert {str(one.start.picture) for one in commands} == {"None", "photo.png"} and len(commands) >= 8
    assert {one.interpolate for one in commands} >= {"3,7", "3,7,3", None}
