"""What a snapshot says of itself: one JSON value in the metadata of its safetensors file.

`format`, the time `t`, the averaging `profile`, the names of `buffers` (tensors that are not averages), a checksum per
tensor (`sums`), and `sha256` over all that the header says: these, and names, dtypes, shapes and places of the tensors.
That of a denoiser has `denoiser`, everything that is needed to sample. One in shards has `shard`, its number and how
many there are. `extra` is text of one's own by name.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from unitgain.arch import NetworkSpec
from unitgain.checkpoint.tensors import Layout, header_bytes, places
from unitgain.classes import Classes
from unitgain.ema import check_description, file_name, is_statistic, profile_of
from unitgain.serial import from_dict, to_dict
from unitgain.text import brief, printable

FORMAT = "unitgain/2"
KEY = "unitgain"  # of the one value in the metadata
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
MOST_SIGMA = 1e9  # of data, and one over the least: squares of more are no numbers
MAX_NETWORK = 2**14  # bytes of a network's description as JSON; it has less than a thousand


class SnapshotError(Exception):
    """A file is not a snapshot, or is damaged, or cannot become one."""


@dataclass(frozen=True, kw_only=True)
class SnapshotHeader:
    """What the snapshot of a denoiser says of itself.

    Args:
        network: the network whose parameters it holds.
        sigma_data: standard deviation of the training data.
        nimg: images seen in training; 0 where a file from elsewhere does not say it.
        profile: averaging profile, `{"kind": "power", "sigma_rel": ..., "gamma": ...}`,
            `{"kind": "exponential", "half_life": ...}`, `{"kind": "raw"}` or `{"kind": "unknown"}`.
        recipe: name of the recipe.
        encoder: how images become what the network sees, as `unitgain.data.encoder` writes it.
        classes: names of the classes, if known.
        data: name of what it was trained on, if known.
        label_dropout: probability with which training left the label out, so that it can be guided by itself; None
            where nobody knows.
        license: of the weights, if known.

    Raises:
        ValueError: if the profile is none, or there are not as many names as classes.
    """

    network: NetworkSpec
    sigma_data: float
    nimg: int
    profile: dict[str, Any]
    recipe: str
    encoder: dict[str, Any]
    classes: tuple[str, ...] | None = None
    data: str | None = None
    label_dropout: float | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        check_description(self.profile)
        Classes(self.network.label_dim, self.classes)

    @property
    def sigma_rel(self) -> float | None:
        """Relative EMA length of a power-function average; None for others."""
        return self.profile.get("sigma_rel") if self.profile["kind"] == "power" else None

    def replace(self, **changes: object) -> "SnapshotHeader":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def filename(self) -> str:
        """`<nimg, 10 digits>-<length>.safetensors`, as `file_name` writes it."""
        return file_name(self.nimg, self.profile)


def is_buffer(name: str) -> bool:
    """Whether a name is a constant of a denoiser, the frequencies and phases, rather than a parameter."""
    return name.endswith((".freqs", ".phases"))


def average_dtype(name: str, own: torch.dtype, dtype: str) -> torch.dtype:
    """Of an average in a file: `dtype` for parameters, float32 for running statistics, which may be of any size."""
    if not own.is_floating_point:
        return own
    return torch.float32 if is_statistic(name) else DTYPES[dtype]


def facts_of(
    t: float,
    profile: Mapping[str, Any],
    buffers: Iterable[str],
    header: SnapshotHeader | None = None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a snapshot says of itself before its tensors are known.

    Args:
        t: when it was taken.
        profile: how it was averaged, as `unitgain.ema.describe` has it.
        buffers: names of tensors that are not averages.
        header: of a denoiser; its `nimg` and `profile` do not count.
        extra: text of one's own by name.

    Raises:
        ValueError: if `extra` is anything else.
    """
    if others := {name: value for name, value in (extra or {}).items() if not isinstance(value, str)}:
        name, value = next(iter(others.items()))
        raise ValueError(f"what a file says beside is text by name: {name!r} is {brief(value)}, write it as text")
    facts = {
        "format": FORMAT,
        "t": int(t) if float(t).is_integer() else t,
        "profile": dict(profile),
        "buffers": sorted(buffers),
    }
    if header is not None:
        facts["denoiser"] = {key: value for key, value in to_dict(header).items() if key not in ("nimg", "profile")}
    return {**facts, "extra": dict(extra)} if extra else facts


def sealed_header(facts: Mapping[str, Any], tensors: Layout, sums: Mapping[str, int]) -> bytes:
    """The header of a file: as long as any other of the same facts and tensors, whatever the sums."""
    complete = {**facts, "sums": {name: f"{sums.get(name, 0):016x}" for name in tensors}}
    complete["sha256"] = digest(complete, places(tensors))
    return header_bytes({KEY: _text(complete)}, tensors)


def digest(facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """The `sha256` of a header, of which it is left out."""
    own = {key: value for key, value in facts.items() if key != "sha256"}
    return hashlib.sha256(_text([own, tensors]).encode()).hexdigest()


def check_facts(facts: Mapping[str, Any], names: Iterable[str]) -> SnapshotHeader | None:
    """Check what a file says of itself, whose checksum is right; the header if it is of a denoiser.

    Raises:
        ValueError: if anything is missing, of another kind, or out of range.
    """
    t: Any = facts.get("t")
    sums, buffers, extra = (facts.get(key) for key in ("sums", "buffers", "extra"))
    if type(t) not in (int, float) or not 0 <= t < 2**63:
        raise ValueError(f"its time is {printable(t)[:50]}")
    if not isinstance(sums, dict) or sums.keys() != set(names):
        raise ValueError("it does not have a checksum for each of its tensors")
    if not all(isinstance(total, str) and re.fullmatch("[0-9a-f]{16}", total) for total in sums.values()):
        raise ValueError("its checksums are no numbers of 16 digits")
    if not isinstance(buffers, list) or not all(isinstance(name, str) for name in buffers):
        raise ValueError("its buffers are no list of names")
    if extra is not None and not (isinstance(extra, dict) and all(isinstance(text, str) for text in extra.values())):
        raise ValueError("what it says beside is no text by name")
    if not isinstance(facts.get("profile"), dict):
        raise ValueError("it has no averaging profile")
    profile_of(facts["profile"], float(t))
    denoiser = facts.get("denoiser")
    if denoiser is None:
        return None
    if not isinstance(denoiser, dict) or len(_text(denoiser.get("network"))) > MAX_NETWORK:
        raise ValueError("the description of its network is no object, or too long to be one of a network")
    header = from_dict(SnapshotHeader, {**denoiser, "nimg": round(t), "profile": facts["profile"]})
    if not 1 / MOST_SIGMA <= header.sigma_data <= MOST_SIGMA:
        raise ValueError(f"its sigma_data is {header.sigma_data}")
    return header


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
