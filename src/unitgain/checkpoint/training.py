"""Training states of the official loop, `training-state-*.pt`, found in their files by structure.

The layout of these files is not known here. What is looked for, at any place in nested dicts and lists: tensors by the
official names of a network, at a place with `ema` or `average` in it those of an average, and elsewhere those of the
network in training; a `state_dict` of torch's Adam, whose parameters are numbered in the order of the network; numbers
of sigma_rel beside averages; images seen. Nothing in a file is executed (`archive`).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from unitgain.checkpoint.archive import open_archive
from unitgain.checkpoint.nvidia import check_tensors, infer_config, on_meta, rename
from unitgain.checkpoint.origin import images_seen
from unitgain.checkpoint.records import Call, Refused
from unitgain.checkpoint.storage import PARAMETER, TENSOR, Reader
from unitgain.ema import SIGMA_REL_MAX
from unitgain.ema.names import canonical

NAME = re.compile(r"((?:.*\.)?)((?:unet|logvar_\w+)\..+)", re.DOTALL)  # of a tensor, after what may stand before it
AVERAGE = re.compile(r"ema|average|avg", re.IGNORECASE)
LENGTH = re.compile(r"std|sigma|length|rel", re.IGNORECASE)
IMAGES, THOUSANDS = ("cur_nimg", "nimg", "images_seen"), ("cur_kimg", "kimg")
FILE = re.compile(r"training-state-(\d{1,12})\.pt")
DEPTH = 16  # of containers in containers
MOST_IMAGES, MOST_NETWORKS, MOST_ITEMS = 2**50, 64, 1000
MOST_AGAIN = 2**18  # items of containers that are looked into again, in another place
Place = tuple[object, ...]  # keys and numbers that lead to something


class Average(NamedTuple):
    """An average of the network: its relative length, and tensors as in `TrainingState`, float32."""

    sigma_rel: float
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class TrainingState:
    """What a file has, by our names: `network.*` of the denoiser, `uncertainty.*` of u(sigma).

    Attributes:
        config: official constructor arguments of the network.
        weights: of the network in training, float32.
        adam: `exp_avg`, `exp_avg_sq` and `step` by parameter; empty if they cannot be had.
        options: of Adam: `betas`, `eps`, where the file says them.
        averages: those of known length, in the order of the file.
        nimg: images seen.
        remarks: what could not be taken or had to be assumed, a line each.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    adam: dict[str, dict[str, Tensor]]
    options: dict[str, Any]
    averages: tuple[Average, ...]
    nimg: int
    remarks: tuple[str, ...]


def read_training_state(path: Path, config: Mapping[str, Any] | None = None) -> TrainingState:
    """Read a training state; nothing in it is executed.

    Args:
        path: the file.
        config: official constructor arguments of its network; by default as its tensors tell, with the official
            defaults for what they do not.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it is damaged, holds anything else than tensors and plain containers, or no network in training, or
            nothing says how many images were seen.
    """
    with open_archive(path) as (root, reader):
        return _read(dict(_Walk().over(root)), reader, path.name, config)


def _read(nodes: Mapping[Place, object], reader: Reader, file: str, config: Mapping[str, Any] | None) -> TrainingState:
    networks = _networks(nodes)
    averaged = [place for place in networks if any(AVERAGE.search(str(part)) for part in place)]
    trained = _different(nodes, [place for place in networks if place not in averaged])
    if len(trained) != 1:
        where = ", ".join(map(_said, trained)) or "none"
        raise Refused(f"it should have one network in training, and has {where}: this is no training state of EDM2")
    nimg = _images(nodes, file)
    if nimg is None:
        raise Refused("it does not say how many images were seen: name it training-state-<thousands>.pt")
    official = {key: reader.tensor(record) for key, record in networks[trained[0]].items()}
    remarks = []
    if config is None:
        config = infer_config(official)
        remarks.append(
            f"network: by the shapes of its tensors, {config['channels_per_head']} channels per head and the balances "
            "are the official defaults, which a file does not say"
        )
    denoiser, uncertainty = on_meta(config)

    def ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: one.float() for key, one in rename(tensors, denoiser.spec.channels_per_head).items()}

    weights = ours(official)
    check_tensors(weights, denoiser, uncertainty)
    averages: list[Average] = []
    for place, length in zip(averaged, _lengths(nodes, averaged), strict=True):
        if length is None:
            remarks.append(f"average at {_said(place)}: left out, nothing says how long it is")
            continue
        tensors = ours({key: reader.tensor(record) for key, record in networks[place].items()})
        if {key: one.shape for key, one in tensors.items()} != {key: one.shape for key, one in weights.items()}:
            remarks.append(f"average at {_said(place)}: left out, its tensors are not those of the network")
            continue
        averages.append(Average(length, tensors))
    parameters = [key for key in official if not key.endswith((".freqs", ".phases"))]
    adam: dict[str, dict[str, Tensor]] = {}
    options: dict[str, Any] = {}
    try:
        found, options = _adam(nodes, reader, {key: official[key].shape for key in parameters})
        for key, own in found.items():
            ((name, first),), ((_, second),) = (ours({key: own[kind]}).items() for kind in ("exp_avg", "exp_avg_sq"))
            adam[name] = {"exp_avg": first, "exp_avg_sq": second, "step": own["step"]}
    except Refused:
        raise
    except ValueError as error:
        remarks.append(f"Adam: left out, {error}")
    return TrainingState(dict(config), weights, adam, options, tuple(averages), nimg, tuple(remarks))


class _Walk:
    """Everything in nested containers, by place: one that lies in several places in each, up to `MOST_AGAIN` items."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._left = MOST_AGAIN

    def over(self, value: object, place: Place = (), above: tuple[int, ...] = ()) -> Iterator[tuple[Place, object]]:
        yield place, value
        if len(place) > DEPTH or id(value) in above or not isinstance(value, dict | list | tuple):
            return
        if id(value) in self._seen:
            self._left -= len(value) + 1
            if self._left < 0:
                return
        self._seen.add(id(value))
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from self.over(item, (*place, key), (*above, id(value)))


def _different(nodes: Mapping[Place, object], places: list[Place]) -> list[Place]:
    """The first place of each container that lies in several."""
    firsts: dict[object, Place] = {}
    for place in places:
        firsts.setdefault(id(nodes[place]) if place in nodes else place, place)
    return list(firsts.values())


def _networks(nodes: Mapping[Place, object]) -> dict[Place, dict[str, object]]:
    """Records of tensors by official name, by the place of their network."""
    networks: dict[Place, dict[str, object]] = {}
    for place, record in nodes.items():
        match = NAME.fullmatch(place[-1]) if place and isinstance(place[-1], str) else None
        if match is None or not isinstance(record, Call) or record.name not in (TENSOR, PARAMETER):
            continue
        before = canonical(match[1].rstrip("."))
        networks.setdefault((*place[:-1], before) if before else place[:-1], {})[match[2]] = record
    found = {place: records for place, records in networks.items() if any(".enc." in name for name in records)}
    if len(found) > MOST_NETWORKS:
        raise Refused(f"it has {len(found):,} networks, more than {MOST_NETWORKS}")
    return found


def _lengths(nodes: Mapping[Place, object], averaged: list[Place]) -> list[float | None]:
    """The sigma_rel of each average: in its place, or beside it or a container of it, as many as there are averages."""

    def beside(place: Place) -> float | None:
        for end in range(len(place), -1, -1):
            inside = [other for other in averaged if other[:end] == place[:end]]
            container: Any = nodes.get(place[:end])
            few = isinstance(container, dict) and len(container) <= MOST_ITEMS
            for key, value in container.items() if few else ():
                numbers: Any = value if isinstance(value, list | tuple) else [value]
                if LENGTH.search(str(key)) and len(numbers) == len(inside) and all(map(_is_length, numbers)):
                    return float(numbers[inside.index(place)])
        return None

    found: list[float | None] = []
    for place in averaged:
        texts = [re.search(r"\d?\.\d+$", str(part)) for part in reversed(place)]
        named = next((float(text[0]) for text in texts if text and _is_length(float(text[0]))), None)
        found.append(beside(place) if named is None else named)
    return found


def _adam(
    nodes: Mapping[Place, object], reader: Reader, parameters: Mapping[str, torch.Size]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Adam's moments by official name of the parameter, and what its groups say.

    Raises:
        Refused: if a tensor of theirs is damaged.
        ValueError: if they are not there, or not of these parameters.
    """
    optimizers = [
        node for node in nodes.values() if isinstance(node, dict) and {"state", "param_groups"} <= node.keys()
    ]
    found = list({id(one): one for one in optimizers}.values())  # one may lie in several places
    if len(found) != 1:
        raise ValueError(f"there are {len(found)} optimizers")
    state, groups = cast(dict[str, Any], found[0])["state"], cast(dict[str, Any], found[0])["param_groups"]
    if not isinstance(state, dict) or not isinstance(groups, list) or not all(isinstance(one, dict) for one in groups):
        raise ValueError("it is no state_dict of torch's Adam")
    numbers: list[Any] = [group.get("params") for group in groups]
    if not all(isinstance(one, list) and all(type(number) is int for number in one) for one in numbers):
        raise ValueError("its parameters are not numbered")
    order: list[int] = [number for one in numbers for number in one]
    if not len(order) == len(state) == len(parameters) or set(order) != state.keys():
        raise ValueError(
            f"it is of {len(order)} parameters, {len(state)} with a state, and the network has {len(parameters)}"
        )
    numbered = zip(order, parameters.items(), strict=True)
    moments = {name: _moments(state[number], number, name, shape, reader) for number, (name, shape) in numbered}
    return moments, _options(groups[0])


def _moments(own: object, number: int, name: str, shape: torch.Size, reader: Reader) -> dict[str, Tensor]:
    """Those of one parameter: `exp_avg`, `exp_avg_sq` and `step`, a scalar."""
    if not isinstance(own, dict) or not {"exp_avg", "exp_avg_sq", "step"} <= own.keys():
        raise ValueError(f"parameter {number} has no exp_avg, exp_avg_sq and step")
    first, second, step = reader.tensor(own["exp_avg"]), reader.tensor(own["exp_avg_sq"]), own["step"]
    if not first.shape == second.shape == shape:
        raise ValueError(f"parameter {number} has another shape than {name}")
    count = torch.tensor(float(step)) if type(step) in (int, float) else reader.tensor(step).float()
    if count.ndim or not all(torch.isfinite(one).all() for one in (first, second, count)):
        raise ValueError(f"the moments of {name} are not finite, or their step is no number")
    return {"exp_avg": first, "exp_avg_sq": second, "step": count}


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Those of Adam in a group of parameters that Adam can have."""
    betas, eps, options = group.get("betas"), group.get("eps"), {}
    if (
        isinstance(betas, list | tuple)
        and len(betas) == 2
        and all(type(one) is float and 0 <= one < 1 for one in betas)
    ):
        options["betas"] = tuple(betas)
    if type(eps) is float and 0 < eps < math.inf:
        options["eps"] = eps
    return options


def _images(nodes: Mapping[Place, object], name: str) -> int | None:
    """Images seen: by a counter in the file, or its name, which rounds to thousands."""
    for keys, unit in ((IMAGES, 1), (THOUSANDS, 0)):
        for place, value in nodes.items():
            if place and place[-1] in keys and type(value) is int and 0 < value < MOST_IMAGES:
                return value * unit or images_seen(value)
    match = FILE.fullmatch(name)
    return images_seen(int(match[1])) if match and int(match[1]) else None


def _is_length(value: object) -> bool:
    return type(value) is float and 0 < value < SIGMA_REL_MAX


def _said(place: Place) -> str:
    return f"{'.'.join(map(str, place)) or 'the top'!s:.100}".encode("ascii", "backslashreplace").decode()
