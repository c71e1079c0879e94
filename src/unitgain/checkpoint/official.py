"""What an official file says: the network's constructor arguments and tensors, and its encoder; all of it unexecuted.

The contents are a dict with `ema`, the network, and `encoder`, `dataset_kwargs` and `loss_fn`. Objects are calls of
`torch_utils.persistence._reconstruct_persistent_obj` with a dict: `class_name`, `module_src`, the source code of the
class's module, and `state`, the object's attributes. Classes are told by their names; the source is never read.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unitgain.checkpoint.nvidia import DEFAULTS
from unitgain.checkpoint.records import Call, Refused, Text
from unitgain.checkpoint.storage import NAMES as TENSOR_NAMES
from unitgain.checkpoint.storage import PLAIN, Reader, describe
from unitgain.official import VAE, VAE_MEAN, VAE_STD

PERSISTENT_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
CONTAINERS = frozenset(f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential"))
NETWORK_CLASSES = frozenset({"Precond", "UNet", "Block", "MPConv", "MPFourier"})
ENCODER_CLASSES = frozenset({"StabilityVAEEncoder", "StandardRGBEncoder"})
# Of the first paper of these authors (Karras et al. 2022), whose files are of the same format.
EDM_CLASSES = frozenset({"EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond", "SongUNet", "DhariwalUNet"}) | {
    "UNetBlock",
    "PositionalEmbedding",
    "FourierEmbedding",
    "EDMLoss",
    "VPLoss",
    "VELoss",
    "AugmentPipe",
}
CLASSES = NETWORK_CLASSES | ENCODER_CLASSES | {"EDM2Loss"}
# All that an official file may name.
NAMES = TENSOR_NAMES | CONTAINERS | PLAIN | {PERSISTENT_OBJECT}
VERSION = 6
POSITIONAL = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "logvar_channels")
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"use_fp16": (True, False), "resample_filter": ([1, 1], (1, 1))}
LARGEST = {
    "img_resolution": 16384,
    "img_channels": 1024,
    "label_dim": 1_000_000,
    "model_channels": 4096,
    "num_blocks": 64,
    "channels_per_head": 4096,
    "logvar_channels": 65536,
    "channel_mult": 64,
    "attn_resolutions": 16384,
}
MAX_LEVELS = 16
MAX_DEPTH = 8  # of modules in modules; the networks have four
MAX_TENSORS = 20_000
FINAL_MEAN, FINAL_STD = 0.0, 0.5
PIXELS = {"kind": "pixels", "mean": 127.5, "std": 63.75}
LATENTS = {"kind": "latents", "vae": VAE, "mean": list(VAE_MEAN), "std": list(VAE_STD), "pixels": "0..1"}


@dataclass(frozen=True)
class OfficialNetwork:
    """A network as an official file has it.

    Attributes:
        config: constructor arguments, as `nvidia.from_state` takes them.
        records: tensors by their official names, as `storage.Reader` takes them.
        encoder: how images become what the network sees, as snapshots store it.
    """

    config: dict[str, Any]
    records: dict[str, object]
    encoder: dict[str, Any]


def check_call(call: Call) -> None:
    """Refuse a call of a pickle whose class an official file does not have; for `pickles.read`.

    Raises:
        Refused: naming the class.
    """
    if call.name == PERSISTENT_OBJECT:
        _meta(call)


def network(root: Mapping[Any, object], reader: Reader) -> OfficialNetwork:
    """The network of a file whose contents are `root`.

    Raises:
        Refused: if something is not what the format has there, naming it.
    """
    precond = root.get("ema")
    if precond is None:
        named = ", ".join(str(name)[:64] for name in list(root)[:8])
        raise Refused(f"it has no network under 'ema' but {named!a}; reference statistics become a .npz file")
    class_name, state = _object(precond)
    if class_name != "Precond":
        raise Refused(f"'ema' is {class_name}, not the network Precond")
    records = dict(_tensors(precond))
    config = _config(state)
    blocks = config.get("num_blocks", DEFAULTS["num_blocks"]) * len(
        config.get("channel_mult", DEFAULTS["channel_mult"])
    )
    if blocks > len(records):
        raise Refused(f"its arguments describe {blocks} blocks at least, but it has {len(records)} tensors")
    return OfficialNetwork(config, records, _encoder(root.get("encoder"), reader))


def _meta(call: Call) -> tuple[str, Mapping[Any, object]]:
    where = f"byte {call.at:,}"
    (meta,) = call.args if len(call.args) == 1 else (None,)
    if type(meta) is not dict or call.state is not None:
        raise Refused(f"{where}: an object without the dict that describes it")
    kind, version, class_name, state = (meta.get(key) for key in ("type", "version", "class_name", "state"))
    if isinstance(class_name, str) and class_name in EDM_CLASSES:
        raise Refused(
            f"{where}: an object of class {class_name}: this is a network of the first EDM paper (Karras et al. 2022), "
            "not of EDM2; those are not converted"
        )
    if kind != "class" or version != VERSION:
        raise Refused(f"{where}: an object of another type or version than 'class' and {VERSION}")
    if type(class_name) is not str or class_name not in CLASSES:
        raise Refused(
            f"{where}: an object of class {describe(class_name)}; the classes are {', '.join(sorted(CLASSES))}"
        )
    if type(meta.get("module_src")) not in (str, Text) or type(state) is not dict:
        raise Refused(f"{where}: an object of class {class_name} without its source text or its attributes")
    return class_name, state


def _object(record: object) -> tuple[str, Mapping[Any, object]]:
    """Class name and attributes of a persistent object or of one of torch's containers."""
    if isinstance(record, Call) and record.name == PERSISTENT_OBJECT:
        return _meta(record)
    if isinstance(record, Call) and record.name in CONTAINERS and type(record.state) is dict:
        return record.name, record.state
    raise Refused(f"{describe(record)} where an object should be")


def _tensors(root: object) -> Iterator[tuple[str, object]]:
    """Parameters and persistent buffers of a tree of modules, by name."""
    seen: set[int] = set()
    work: list[tuple[str, object, int]] = [("", root, 0)]
    count = 0
    while work:
        prefix, record, depth = work.pop()
        class_name, state = _object(record)
        if class_name not in NETWORK_CLASSES | CONTAINERS:
            raise Refused(f"{prefix or 'ema'} is {class_name}, which is no part of a network")
        if id(record) in seen or depth > MAX_DEPTH:
            raise Refused(f"module {prefix} is in the network twice, or inside itself")
        seen.add(id(record))
        hidden = state.get("_non_persistent_buffers_set", set())
        for group in ("_parameters", "_buffers"):
            for name, value in _named(state, group, prefix):
                if value is None or (group == "_buffers" and isinstance(hidden, set) and name in hidden):
                    continue
                count += 1
                if count > MAX_TENSORS:
                    raise Refused(f"the network has more than {MAX_TENSORS:,} tensors")
                yield prefix + name, value
        for name, child in _named(state, "_modules", prefix):
            if child is not None:
                work.append((f"{prefix}{name}.", child, depth + 1))


def _named(state: Mapping[Any, object], group: str, prefix: str) -> list[tuple[str, object]]:
    named = state.get(group)
    if type(named) is not dict:
        raise Refused(f"module {prefix or 'ema'} has no {group}")
    for name in named:
        if type(name) is not str or not re.fullmatch(r"\w{1,64}", name, re.ASCII):
            raise Refused(f"module {prefix or 'ema'} has {describe(name)} as a name in {group}")
    return list(named.items())


def _config(state: Mapping[Any, object]) -> dict[str, Any]:
    args, kwargs = state.get("_init_args", ()), state.get("_init_kwargs", {})
    if type(args) not in (list, tuple) or type(kwargs) is not dict or len(args) > len(POSITIONAL):  # type: ignore[arg-type]
        raise Refused("the network's _init_args and _init_kwargs are no constructor arguments")
    given = {**dict(zip(POSITIONAL, args, strict=False)), **kwargs}  # type: ignore[arg-type]
    for name in POSITIONAL:
        if name not in given and name in state:
            given[name] = state[name]
    config = {}
    for name, value in given.items():
        if value is None and name not in DEFAULTS:
            continue  # of what only None is known: the official default
        if value is None and name == "clip_act":
            config[name] = None  # nothing is clamped
        elif name in WITHOUT_EFFECT:
            if type(value) not in (bool, list, tuple) or value not in WITHOUT_EFFECT[name]:
                raise Refused(f"constructor argument {name} is not one of {WITHOUT_EFFECT[name]}")
        elif name not in DEFAULTS:
            raise Refused(f"constructor argument {describe(name)} is not known; known: {', '.join(DEFAULTS)}")
        elif value is None:
            raise Refused(f"constructor argument {name} is None, which means nothing that is known")
        else:
            config[name] = _argument(name, value)
    return config


def _argument(name: str, value: object) -> Any:
    largest = LARGEST.get(name)
    if largest is None:
        if type(value) not in (int, float) or not 0 <= value < 1e6:  # type: ignore[operator]
            raise Refused(f"constructor argument {name} is not a number from 0 to a million")
        return float(value)  # type: ignore[arg-type]
    several = name in ("channel_mult", "attn_resolutions")
    if several and (type(value) not in (list, tuple) or len(value) > MAX_LEVELS):  # type: ignore[arg-type]
        raise Refused(f"constructor argument {name} is not a list of {MAX_LEVELS} whole numbers at most")
    for number in value if several else (value,):  # type: ignore[union-attr]
        if type(number) is not int or not 0 <= number <= largest:
            raise Refused(f"constructor argument {name} is not a whole number from 0 to {largest:,}, or several")
    return tuple(value) if several else value  # type: ignore[arg-type]


def _encoder(record: object, reader: Reader) -> dict[str, Any]:
    if record is None:  # as the official tools read it: plain RGB
        return dict(PIXELS)
    name, state = _object(record)
    if name == "StandardRGBEncoder":
        return dict(PIXELS)
    if name != "StabilityVAEEncoder":
        raise Refused(f"'encoder' is {name}, not one of {', '.join(sorted(ENCODER_CLASSES))}")
    kwargs = state.get("_init_kwargs", {})
    given = {**state, **kwargs} if type(kwargs) is dict else dict(state)
    vae = given.get("vae_name", VAE)
    if vae != VAE:
        raise Refused(f"the encoder's VAE is {describe(vae)}; official files have {VAE!r}")
    mean, std = _normalization(given, reader)
    return {**LATENTS, "mean": mean, "std": std}


def _normalization(given: Mapping[Any, object], reader: Reader) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, such that a latent is `(x - mean) * 0.5 / std`."""
    if "scale" in given and "bias" in given:
        scale, bias = reader.array(given["scale"]), reader.array(given["bias"])
    else:
        raw_mean, raw_std = (reader.array(given.get(k, v)) for k, v in (("raw_mean", VAE_MEAN), ("raw_std", VAE_STD)))
        final = (("final_mean", FINAL_MEAN), ("final_std", FINAL_STD))
        final_mean, final_std = (reader.array(given.get(k, v)) for k, v in final)
        if not (raw_mean.size == raw_std.size == 4 and {final_mean.size, final_std.size} <= {1, 4}):
            raise Refused("the encoder's statistics are not those of 4 channels")
        with np.errstate(all="ignore"):
            scale = final_std.flatten() / raw_std.flatten()
            bias = final_mean.flatten() - raw_mean.flatten() * scale
    with np.errstate(all="ignore"):
        mean, std = -bias.flatten() / scale.flatten(), 0.5 / scale.flatten()
    if mean.size != 4 or std.size != 4 or not all(map(math.isfinite, [*mean, *std])) or not (std > 0).all():
        raise Refused("the encoder's statistics are not a mean and a positive standard deviation of 4 channels")
    return [float(f"{value:.6g}") for value in mean], [float(f"{value:.6g}") for value in std]
