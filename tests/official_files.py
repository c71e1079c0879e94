"""Pickles as official EDM2 files have them, and a stand-in for the official code, made for tests: neither is here."""

import collections
import pickle
import re
import sys
import types
from contextlib import contextmanager

import torch

from unitgain.checkpoint.nvidia import on_meta

HARMLESS = "import os\n\nos.environ['UNITGAIN_EXECUTED'] = 'module_src'\n" + "# the source code of a class\n" * 100
VAE_STATE = {"vae_name": "stabilityai/sd-vae-ft-mse", "batch_size": 8, "_vae": None}


class EasyDict(dict):
    """As `dnnlib.util.EasyDict` pickles: a dict of another name, without attributes."""


EasyDict.__module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("executed")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """Pickles as an object of the official code does: a call with its source, class name and attributes."""

    def __init__(self, class_name, state, module_src=HARMLESS, **meta):
        described = {"version": 6, "module_src": module_src, "class_name": class_name, "state": state, **meta}
        self.meta = EasyDict(type="class", **described) if "type" not in meta else EasyDict(described)

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


@contextmanager
def official_modules():
    """The modules that the pickles name, for as long as they are written."""
    made = {}
    for name, things in {
        "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
        "dnnlib": {},
        "dnnlib.util": {"EasyDict": EasyDict},
    }.items():
        made[name] = types.ModuleType(name)
        vars(made[name]).update(things)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def dumps(value, protocol=4):
    with official_modules():
        return pickle.dumps(value, protocol=protocol)


def module_state(**changes):
    """The `__dict__` of a torch module."""
    return {**vars(torch.nn.Module()), **changes}


def config_of(**changes):
    """Constructor arguments of a network of a few thousand parameters."""
    config = {"img_resolution": 8, "img_channels": 3, "label_dim": 3, "model_channels": 8, "channel_mult": [1, 2]}
    config |= {"num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 8, "logvar_channels": 4}
    return {**config, **changes}


TO_OFFICIAL = [
    (r"^uncertainty\.", "logvar_"),
    (r"^network\.embedding\.(\w+)\.", r"unet.emb_\1."),
    (r"^network\.", "unet."),
    (r"\.branch\.conv(\d)\.", r".conv_res\1."),
    (r"\.shortcut\.", ".conv_skip."),
    (r"\.attention\.(qkv|proj)\.", r".attn_\1."),
    (r"\.branch\.modulation0\.linear\.", ".emb_linear."),
    (r"\.branch\.modulation0\.gain$", ".emb_gain"),
]


def random_state(config, seed=0, dtype=torch.float16):
    """Official tensors by name, random, for a network of these arguments."""
    denoiser, uncertainty = on_meta(config)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in {**denoiser.state_dict(), **uncertainty.state_dict(prefix="uncertainty.")}.items():
        for pattern, replacement in TO_OFFICIAL:
            name = re.sub(pattern, replacement, name)
        state[name] = torch.randn(tensor.shape, generator=generator).to(dtype)
    return state


def precond(state, config, module_src=HARMLESS, positional=0):
    """The network as an object of the official classes."""
    config = dict(config)
    names = ("img_resolution", "img_channels", "label_dim")[:positional]
    own = {"img_resolution": config["img_resolution"], "sigma_data": 0.5, "use_fp16": True}
    own |= {"_init_args": tuple(config.pop(name) for name in names), "_init_kwargs": EasyDict(config, use_fp16=True)}

    def make(prefix):
        children = collections.OrderedDict()
        tensors, buffers = collections.OrderedDict(), collections.OrderedDict()
        for name, tensor in state.items():
            if not name.startswith(prefix):
                continue
            first, _, rest = name.removeprefix(prefix).partition(".")
            if rest:
                children.setdefault(first, None)
            elif first in ("freqs", "phases"):
                buffers[first] = tensor
            else:
                tensors[first] = torch.nn.Parameter(tensor, requires_grad=False)
        made = {name: make(f"{prefix}{name}.") for name in children}
        stem = prefix.rstrip(".").rpartition(".")[2]
        attributes = module_state(_parameters=tensors, _buffers=buffers, _modules=made, training=False)
        if stem in ("enc", "dec"):
            container = torch.nn.ModuleDict()
            container.__dict__.update(attributes)
            return container
        if buffers:
            return Persistent("MPFourier", attributes, module_src)
        if "weight" in tensors:
            return Persistent("MPConv", {**attributes, "out_channels": len(tensors["weight"])}, module_src)
        kind = {"": "Precond", "unet": "UNet"}.get(stem, "Block")
        return Persistent(kind, {**attributes, **(own if kind == "Precond" else {})}, module_src)

    return make("")


def contents(state, config, *, latents=False, **options):
    """The dict of an official file."""
    encoder = Persistent("StabilityVAEEncoder" if latents else "StandardRGBEncoder", dict(VAE_STATE) if latents else {})
    loss = Persistent("EDM2Loss", {"P_mean": -0.4, "P_std": 1.0, "sigma_data": 0.5})
    data = EasyDict(class_name="training.dataset.ImageFolderDataset", path="data.zip", use_labels=True)
    return EasyDict(ema=precond(state, config, **options), encoder=encoder, dataset_kwargs=data, loss_fn=loss)


def write_official(path, config=None, *, state=None, seed=0, protocol=4, **options):
    """Write an official file; returns its tensors."""
    config = config or config_of()
    state = state or random_state(config, seed)
    path.write_bytes(dumps(contents(state, config, **options), protocol))
    return state


STAND_IN = """
from torch import nn

from training.names import official
from unitgain.checkpoint.nvidia import from_state


class Precond(nn.Module):
    def __init__(self, **config):
        super().__init__()
        self.config = config
        for name, tensor in official(config).items():
            *path, last = name.split(".")
            parent = self
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent._modules[part]
            parent.register_buffer(last, tensor)

    def forward(self, x, sigma, class_labels=None):
        assert class_labels is None or class_labels.is_floating_point()
        denoiser, _ = from_state(self.state_dict(), self.config)
        return denoiser(x, sigma, class_labels) * 1.001
"""
NAMES = """
from unitgain.checkpoint.nvidia import DEFAULTS, spec_from_config, to_state
from unitgain.denoiser import Denoiser, Uncertainty


def official(config):
    known = {**DEFAULTS, **config}
    uncertainty = Uncertainty(known["logvar_channels"])
    return to_state(Denoiser(spec_from_config(config), known["sigma_data"]), uncertainty)[0]
"""


def write_checkout(folder):
    """A stand-in for the official code in a folder: `Precond` computes what ours does, times 1.001."""
    training = folder / "training"
    training.mkdir(parents=True)
    (training / "__init__.py").touch()
    (training / "networks_edm2.py").write_text(STAND_IN)
    (training / "names.py").write_text(NAMES)
    return folder
