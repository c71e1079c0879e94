"""Snapshots: averaged weights in one safetensors file that describes itself and notices damage."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unitgain.arch import NetworkSpec
from unitgain.checkpoint.tensors import raw_bytes, write_tensors
from unitgain.denoiser import Denoiser
from unitgain.files import atomic
from unitgain.serial import from_dict, to_dict

FORMAT = "unitgain/1"
# What the `profile` entry says of each kind of average.
PROFILE_KEYS: dict[str, tuple[str, ...]] = {"power": ("sigma_rel", "gamma"), "exponential": ("half_life",), "raw": ()}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class SnapshotError(Exception):
    """A file is not a snapshot, or is damaged."""


@dataclass(frozen=True, kw_only=True)
class SnapshotHeader:
    """What a snapshot says of itself.

    Args:
        network: the network whose parameters it holds.
        sigma_data: standard deviation of the training data.
        nimg: images seen in training.
        profile: averaging profile, `{"kind": "power", "sigma_rel": ..., "gamma": ...}`,
            `{"kind": "exponential", "half_life": ...}` or `{"kind": "raw"}`.
        recipe: name of the recipe.
        encoder: how images become what the network sees, as `unitgain.data.encoder` writes it.
        classes: names of the classes, if known.
        data: name of what it was trained on, if known.
        license: of the weights, if known.
    """

    network: NetworkSpec
    sigma_data: float
    nimg: int
    profile: dict[str, Any]
    recipe: str
    encoder: dict[str, Any]
    classes: tuple[str, ...] | None = None
    data: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        kind = self.profile.get("kind")
        if kind not in PROFILE_KEYS or not all(
            isinstance(self.profile.get(k), int | float) for k in PROFILE_KEYS[kind]
        ):
            kinds = "; ".join(f"{name} with {', '.join(keys) or 'nothing more'}" for name, keys in PROFILE_KEYS.items())
            raise ValueError(f"a snapshot's profile must be one of {kinds}; not {self.profile!r}")

    @property
    def sigma_rel(self) -> float | None:
        """Relative EMA length of a power-function average; None for others."""
        return self.profile.get("sigma_rel") if self.profile["kind"] == "power" else None

    def replace(self, **changes: object) -> "SnapshotHeader":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def filename(self) -> str:
        """`<nimg, 10 digits>-<sigma_rel, 3 decimals>.safetensors`, or `-raw`, or `-hl<half-life>`."""
        if self.profile["kind"] == "exponential":
            length = f"hl{self.profile['half_life']:g}"
        else:
            length = "raw" if self.sigma_rel is None else f"{self.sigma_rel:.3f}"
        return f"{self.nimg:010d}-{length}.safetensors"


def power_profile(sigma_rel: float, gamma: float) -> dict[str, Any]:
    """The `profile` entry of a power-function average."""
    return {"kind": "power", "sigma_rel": sigma_rel, "gamma": gamma}


def write_snapshot(path: Path, header: SnapshotHeader, tensors: Mapping[str, Tensor], dtype: str = "float16") -> None:
    """Write a snapshot, atomically.

    Args:
        path: the file; replaced if it is there.
        header: what it says of itself.
        tensors: parameters and buffers of the denoiser under their canonical names.
        dtype: of the parameters in the file: "float16" (default, as in the paper), "bfloat16" or "float32". The Fourier
            buffers stay in float32: they are few, and small errors in a frequency become large ones in a phase.

    Raises:
        ValueError: if `dtype` is none of these.
        SnapshotError: if a tensor has values that are not finite in it; nothing is written.
        OSError: if it cannot be written; nothing is left behind.
    """
    if dtype not in DTYPES:
        raise ValueError(f"snapshot dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    stored = {}
    for name, tensor in tensors.items():
        kept = tensor.detach().to("cpu", torch.float32 if is_buffer(name) else DTYPES[dtype]).contiguous()
        if not torch.isfinite(kept).all():
            remedy = "" if dtype == "float32" else "; store snapshots in float32"
            raise SnapshotError(f"not written: tensor {name} holds values that are not finite in {dtype}{remedy}")
        stored[name] = kept
    metadata = _metadata(header)
    digest = Digest(metadata)
    for name in sorted(stored):
        digest.update(name, stored[name])
    with atomic(path) as temporary:
        write_tensors(temporary, stored, {**metadata, "sha256": digest.hex()})


def is_buffer(name: str) -> bool:
    """Whether a canonical name is a constant of the network, the frequencies and phases, rather than a parameter."""
    return name.endswith((".freqs", ".phases"))


class Digest:
    """SHA-256 of a snapshot: its metadata in the order of keys, then its tensors in the order of names."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._hash = hashlib.sha256()
        for key in sorted(metadata):
            if key != "sha256":
                self._hash.update(f"{key}\0{metadata[key]}\0".encode())

    def update(self, name: str, tensor: Tensor) -> None:
        """Take in the next tensor."""
        self.begin(name, tensor.dtype, tuple(tensor.shape))
        self.feed(raw_bytes(tensor))

    def begin(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """Take in what is known of the next tensor before its bytes, which `feed` takes part by part."""
        self._hash.update(f"{name}\0{dtype}\0{shape}\0".encode())

    def feed(self, data: memoryview) -> None:
        """Take in the next bytes of the tensor begun last."""
        self._hash.update(data)

    def hex(self) -> str:
        """The digest so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()


class Snapshot:
    """A snapshot open for reading; a context manager.

    Args:
        path: the file.

    Attributes:
        header: what it says of itself.
        names: names of its tensors, sorted.

    Raises:
        FileNotFoundError: if there is no file.
        SnapshotError: if it is not a snapshot, is cut short, or its header is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no snapshot at {self.path}")
        try:
            self._file: Any = safe_open(self.path, framework="pt")
            self._metadata: dict[str, str] = self._file.metadata() or {}
            self.names = sorted(self._file.keys())
        except (SafetensorError, UnicodeDecodeError, ValueError) as error:
            raise SnapshotError(f"{self.path} is damaged or no safetensors file: {error}") from error
        if self._metadata.get("format") != FORMAT:
            found = self._metadata.get("format")
            raise SnapshotError(f"{self.path} is not a snapshot of format {FORMAT}: its header says {found!r}")
        if self._metadata.get("header_sha256") != header_digest(self._metadata):
            raise SnapshotError(f"{self.path} is damaged: its header does not match its checksum")
        try:
            self.header = _header(self._metadata)
        except (ValueError, KeyError, TypeError) as error:
            raise SnapshotError(f"{self.path} has a damaged header: {error}") from error

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self._file = None

    @property
    def sha256(self) -> str:
        """The checksum that it carries."""
        return self._metadata.get("sha256", "")

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored, on the CPU."""
        try:
            return self._file.get_tensor(name)
        except SafetensorError as error:
            raise SnapshotError(f"{self.path}: tensor {name} cannot be read: {error}") from error

    def verified(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors in the order of names; the checksum is checked after the last.

        Raises:
            SnapshotError: if the checksum is not the one in the header; discard what was read.
        """
        digest = Digest(self._metadata)
        for name in self.names:
            tensor = self.tensor(name)
            digest.update(name, tensor)
            yield name, tensor
        if digest.hex() != self._metadata.get("sha256"):
            raise SnapshotError(
                f"{self.path} is damaged: its contents do not match its checksum; fetch or write it again"
            )

    def denoiser(self, mapped: bool = False) -> Denoiser:
        """The denoiser in evaluation mode, checked against the checksum.

        Args:
            mapped: leave the parameters in the file, in its precision, and map them into memory: only to be prepared,
                or looked at. By default they are float32, in memory.

        Raises:
            SnapshotError: if the file is damaged, or its tensors are not those of its network.
        """
        with torch.device("meta"):
            denoiser = Denoiser(self.header.network, self.header.sigma_data)
        tensors = {name: tensor if mapped else tensor.to(torch.float32, copy=True) for name, tensor in self.verified()}
        try:
            denoiser.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise SnapshotError(f"{self.path}: its tensors do not fit its network: {error}") from error
        denoiser.encoder = self.header.encoder
        denoiser.label_dropout = getattr(self.header, "label_dropout", 0.0)  # nothing stored yet was trained with any
        return denoiser.requires_grad_(False).eval()


def load(path: Path | str) -> Denoiser:
    """Open a snapshot as a denoiser: float32, on the CPU, in evaluation mode, without gradients.

    Args:
        path: a `.safetensors` file written by training or by reconstruction.

    Raises:
        FileNotFoundError: if there is no file.
        SnapshotError: if it is no snapshot, or damaged.
    """
    with Snapshot(path) as snapshot:
        return snapshot.denoiser()


def _metadata(header: SnapshotHeader) -> dict[str, str]:
    late = ("data", "license")  # not in the first files: where they are unknown, the bytes stay as they were
    given = {name: value for name, value in to_dict(header).items() if value is not None or name not in late}
    values = {name: json.dumps(value, sort_keys=True) for name, value in given.items()}
    metadata = {"format": FORMAT, **values}
    return {**metadata, "header_sha256": header_digest(metadata)}


def header_digest(metadata: Mapping[str, str]) -> str:
    """The `header_sha256` of a snapshot: the digest of its metadata without the two checksums."""
    plain = {key: value for key, value in metadata.items() if key not in ("sha256", "header_sha256")}
    return Digest(plain).hex()


def _header(metadata: Mapping[str, str]) -> SnapshotHeader:
    names = {field.name for field in dataclasses.fields(SnapshotHeader)}
    return from_dict(SnapshotHeader, {name: json.loads(text) for name, text in metadata.items() if name in names})
