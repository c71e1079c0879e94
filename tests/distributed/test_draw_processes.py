"""The same folder of images from one process and from two."""

from pathlib import Path

import torch
from launch import launch

from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser
from unitgain.draw import DrawSettings, Network, write_images
from unitgain.infer import prepare
from unitgain.parallel import processes


def network() -> Network:
    torch.manual_seed(0)
    spec = NetworkSpec(
        resolution=8, channels=1, label_dim=3, model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8
    )
    denoiser = Denoiser(spec).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if parameter.ndim == 0:
            parameter.fill_(0.5)
    return Network(name="test", denoiser=prepare(denoiser, torch.float32), record={"sha256": "0"})


def draw_some(rank: int, out: str, first: int) -> None:
    settings = DrawSettings(steps=2, guidance=2.0)
    with processes() as world:
        write_images(network(), None, settings, range(first), Path(out) / "folder", world=world, batch=5)
        write_images(network(), None, settings, range(first), Path(out) / "images.zip", world=world)
        try:
            write_images(network(), None, settings.replace(steps=3), range(first), Path(out) / "folder", world=world)
        except ValueError as error:
            assert "settings.steps: 2 -> 3" in str(error)
        else:
            raise AssertionError("other settings were not refused")


def test_images_do_not_depend_on_the_number_of_processes(tmp_path):
    draw_some(0, str(tmp_path / "one"), 64)
    launch(draw_some, 2, str(tmp_path / "two"), 40)
    launch(draw_some, 2, str(tmp_path / "two"), 64)  # goes on with what is there
    one, two = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert len(one) == 64 + 2
    assert one == two
