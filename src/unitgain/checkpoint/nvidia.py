"""The official EDM2 networks: their parameter names and constructor arguments, and ours."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unitgain.arch import NetworkSpec
from unitgain.denoiser import Denoiser, Uncertainty
from unitgain.serial import suggest
from unitgain.size import show_size

# Constructor arguments that `from_state` understands, with the official defaults; None: must be given.
DEFAULTS: dict[str, Any] = {
    "img_resolution": None,
    "img_channels": None,
    "label_dim": None,
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attn_resolutions": (16, 8),
    "channels_per_head": 64,
    "dropout": 0.0,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256.0,
    "sigma_data": 0.5,
    "logvar_channels": 128,
}
# Those that have the same name and meaning in a `NetworkSpec`.
SAME = tuple(field.name for field in dataclasses.fields(NetworkSpec) if field.name in DEFAULTS)
# Parts of names, official and ours, the most special first.
_NAMES = (
    ("unet.emb_fourier.", "network.embedding.fourier."),
    ("unet.emb_noise.", "network.embedding.noise."),
    ("unet.emb_label.", "network.embedding.label."),
    ("unet.", "network."),
    (".conv_res", ".branch.conv"),
    (".conv_skip.", ".shortcut."),
    (".attn_qkv.", ".attention.qkv."),
    (".attn_proj.", ".attention.proj."),
    (".emb_linear.", ".branch.modulation0.linear."),
    (".emb_gain", ".branch.modulation0.gain"),
    ("logvar_", "uncertainty."),
)


def spec_from_config(config: Mapping[str, Any]) -> NetworkSpec:
    """The network that official constructor arguments describe.

    Raises:
        ValueError: if an argument is unknown or a required one is missing.
    """
    for name in config:
        if name not in DEFAULTS:
            raise ValueError(f"unknown official constructor argument {name!r}; {suggest(name, DEFAULTS)}")
    values = {**DEFAULTS, **config}
    for name, value in values.items():
        if value is None and name != "clip_act":  # that one says that nothing is clamped
            raise ValueError(f"official constructor argument {name!r} is missing")
    same: dict[str, Any] = {name: values[name] for name in SAME}
    same |= {name: tuple(value) for name, value in same.items() if isinstance(value, list)}
    return NetworkSpec(resolution=values["img_resolution"], channels=values["img_channels"], **same)


def infer_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments that the shapes of official tensors tell; `channels_per_head` is the official default.

    Raises:
        ValueError: if they are not the tensors of such a network.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    blocks: dict[int, set[str]] = {}
    for name in shapes:
        if match := re.match(r"unet\.enc\.(\d{1,5})x\1_(block\d{1,5})\.", name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    try:
        levels = sorted(blocks, reverse=True)
        width, inputs = shapes[f"unet.enc.{levels[0]}x{levels[0]}_conv.weight"][:2]
        first = {level: f"unet.enc.{level}x{level}_block0" for level in levels}
        attention = [level for level in levels if f"{first[level]}.attn_qkv.weight" in shapes]
        heads = [
            shapes[f"{first[level]}.attn_qkv.weight"][0] / 3 / DEFAULTS["channels_per_head"] for level in attention
        ]
        if not all(number == int(number) for number in heads):
            raise ValueError(f"its heads do not have {DEFAULTS['channels_per_head']} channels each")
        return {
            "img_resolution": levels[0],
            "img_channels": inputs - 1,
            "label_dim": shapes.get("unet.emb_label.weight", (0, 0))[1],
            "model_channels": width,
            "channel_mult": tuple(shapes[f"{first[level]}.conv_res1.weight"][0] // width for level in levels),
            "num_blocks": len(blocks[levels[0]]),
            "attn_resolutions": tuple(attention),
            "channels_per_head": DEFAULTS["channels_per_head"],
            "logvar_channels": shapes["logvar_fourier.freqs"][0],
        }
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"its tensors do not tell what network they are of: {error} is missing") from None


def rename(state: Mapping[str, Tensor], channels_per_head: int) -> dict[str, Tensor]:
    """Official tensors under our names: `network.*` for the denoiser, `uncertainty.*` for u(sigma).

    Works for anything shaped like the parameters: weights, gradients, averages. The rows of `qkv` weights are put in
    our order, (q, k, v) slowest; officially it is fastest, within the channel of the head, within the head.
    """
    renamed = {}
    for name, tensor in state.items():
        for official, ours in _NAMES:
            name = name.replace(official, ours)
        if name.endswith(".attention.qkv.weight"):
            rows = tensor.unflatten(0, (-1, channels_per_head, 3))
            tensor = rows.movedim(2, 0).flatten(0, 2).contiguous()
        renamed[name] = tensor
    return renamed


def to_state(denoiser: Denoiser, uncertainty: Uncertainty) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Official tensors and constructor arguments from a denoiser and its uncertainty; the inverse of `from_state`.

    Returns:
        Parameters and buffers by official name (the tensors are those of the networks, not copies, but for `qkv`), and
        constructor arguments: the three without a default, and those that differ from theirs.

    Raises:
        ValueError: if the network is none that the official code builds: config G alone is.
    """
    config = config_from_spec(denoiser.spec)
    config |= {"sigma_data": denoiser.sigma_data, "logvar_channels": len(uncertainty.fourier.freqs)}
    ours = {**denoiser.state_dict(), **uncertainty.state_dict(prefix="uncertainty.")}
    state = {}
    for name, tensor in ours.items():
        for official, own in _NAMES:
            name = name.replace(own, official)
        if name.endswith(".attn_qkv.weight"):
            rows = tensor.unflatten(0, (3, -1, denoiser.spec.channels_per_head))
            tensor = rows.movedim(0, 2).flatten(0, 2).contiguous()
        state[name] = tensor
    return state, {name: value for name, value in config.items() if value != DEFAULTS[name]}


def config_from_spec(spec: NetworkSpec) -> dict[str, Any]:
    """Official constructor arguments of a network; the inverse of `spec_from_config`.

    Raises:
        ValueError: if the official code builds no such network.
    """
    config = {"img_resolution": spec.resolution, "img_channels": spec.channels}
    config |= {name: getattr(spec, name) for name in SAME}
    again = spec_from_config(config)
    if spec.level_sizes[0] != (spec.resolution, spec.resolution):
        raise ValueError(
            f"the official code builds networks of square images that halve at each level, not of "
            f"{show_size(spec.resolution)} pixels over {len(spec.widths)} levels"
        )
    if again != spec:
        fields = [name for name, value in vars(spec).items() if value != getattr(again, name)]
        changed = ", ".join(f"{name}={getattr(spec, name)!r}" for name in fields)
        raise ValueError(f"the official code builds config G of EDM2 and nothing else, not a network with {changed}")
    return config


def from_state(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[Denoiser, Uncertainty]:
    """Denoiser and uncertainty from official tensors.

    Args:
        state: official parameters and buffers by name (`unet.enc.64x64_conv.weight`, `logvar_linear.weight`, ...), any
            floating dtype; read into float32.
        config: official constructor arguments: `img_resolution`, `img_channels` and `label_dim`, and where they are not
            the default others of `DEFAULTS`.

    Raises:
        ValueError: if an argument is unknown or missing, or tensors are missing, left over or of another shape.
    """
    denoiser, uncertainty = on_meta(config)
    tensors = rename(state, denoiser.spec.channels_per_head)
    check_tensors(tensors, denoiser, uncertainty)
    tensors = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in tensors.items()}
    prefix = "uncertainty."
    uncertainty.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, assign=True
    )
    denoiser.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(prefix)}, assign=True)
    for module in (denoiser, uncertainty):
        module.requires_grad_(True)
    return denoiser, uncertainty


def on_meta(config: Mapping[str, Any]) -> tuple[Denoiser, Uncertainty]:
    """Denoiser and uncertainty that official constructor arguments describe, without memory for their parameters."""
    with torch.device("meta"):
        denoiser = Denoiser(spec_from_config(config), sigma_data=config.get("sigma_data", DEFAULTS["sigma_data"]))
        return denoiser, Uncertainty(config.get("logvar_channels", DEFAULTS["logvar_channels"]))


def check_tensors(given: Mapping[str, Tensor], denoiser: Denoiser, uncertainty: Uncertainty) -> None:
    """Raise `ValueError` unless `given`, under our names, are the tensors of both, each of the right shape."""
    expected = {**denoiser.state_dict(), **uncertainty.state_dict(prefix="uncertainty.")}
    missing = [name for name in expected if name not in given]
    extra = [name for name in given if name not in expected]
    if missing or extra:
        raise ValueError(f"tensors do not fit the constructor arguments: missing {missing[:3]}, left over {extra[:3]}")
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            raise ValueError(f"tensor {name} has shape {shapes}: the constructor arguments describe another network")
