"""Parity of configs A and B with the reference implementation, float32 on the CPU, relative error at most 1e-5."""

import re

import pytest
import torch
from conftest import Golden, relative_error

from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser

TOLERANCE = 1e-5
NAMES = [
    (r"^state\.model\.", "network."),
    (r"\.map_", ".embedding."),
    (r"\.affine\.", ".modulation.affine."),
    (r"\.norm1\.", ".modulation.norm."),
    (r"\.norm2\.", ".attention.norm."),
    (r"\.(qkv|proj)\.", r".attention.\1."),
]


def config(name):
    golden = Golden(name)
    config = golden.config
    spec = NetworkSpec(
        resolution=config["img_resolution"],
        channels=config["img_channels"],
        label_dim=config["label_dim"],
        model_channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        num_blocks=config["num_blocks"],
        attn_resolutions=tuple(config["attn_resolutions"]),
        design="adm",
    )
    assert spec.emb_channels == config["model_channels"] * config["channel_mult_emb"]
    denoiser = Denoiser(spec).eval()
    state = {}
    for name, tensor in golden.tensors.items():
        if not name.startswith("state.") or name.endswith("resample_filter"):
            continue  # the filters are constants, 1/4 each: the 2x2 box
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:  # (q, k, v) fastest there, slowest here
            tensor = tensor.unflatten(0, (-1, spec.channels_per_head, 3)).movedim(2, 0).flatten(0, 2)
        state[name] = tensor
    denoiser.load_state_dict(state)  # strict: every tensor has its place and every place its tensor
    return golden, denoiser


@pytest.mark.parametrize("name", ["config_a", "config_b"])
def test_outputs_for_every_sigma(name):
    golden, denoiser = config(name)
    with torch.no_grad():
        denoised = denoiser(golden["x"], golden["sigma"], golden["labels"])
    for row in range(len(denoised)):
        assert relative_error(denoised[row], golden["denoised"][row]) < TOLERANCE
