"""Weights of detectors: from a path, or fetched once into a cache."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from unitgain import files
from unitgain.download import DownloadError, check_sha256, download
from unitgain.files import cache_folder
from unitgain.kinds import ZIP
from unitgain.metrics.detectors import Detector, DetectorInfo, Function, Pixels
from unitgain.metrics.names import DINOV2
from unitgain.metrics.networks import DinoV2, open_script

INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
LARGEST = 2_000_000_000  # bytes of weights that are fetched; Inception's have 95 MB


def open_detector(
    name: str,
    device: torch.device | str = "cpu",
    *,
    inception: Path | None = None,
    dinov2: str = DINOV2,
    sha256: str | None = None,
    scale: tuple[float, float] | None = None,
    on_bytes: Callable[[int, int], None] | None = None,
) -> Detector:
    """A detector by name.

    Args:
        name: `inception`, `dinov2`, `pixels`, a TorchScript file (`*.pt`), or a Python function `module:function`.
        device: where it runs.
        inception: file of Inception's weights; fetched once by default.
        dinov2: folder or Hub id of DINOv2's weights.
        sha256: of Inception's weights, checked if given.
        scale: mean and standard deviation of `pixels`; those of `Pixels` by default.
        on_bytes: called with (bytes there, bytes in all) while something is fetched.

    Raises:
        ValueError: if there is none of that name.
        FileNotFoundError: if its weights are not there.
        DownloadError: if they cannot be fetched, or have another hash.
    """
    if name == "pixels":
        return Pixels(*(scale or ()), device=device)
    if name == "inception":
        path = inception or fetch(INCEPTION_URL, sha256, on_bytes)
        if inception is not None and path.is_file():
            check_sha256(str(path), files.sha256(path), sha256)
        return open_script(path, device, name)
    if name == "dinov2":
        return DinoV2(dinov2, device)
    if name.endswith((".pt", ".pth", ".ts")):
        return open_script(Path(name), device)
    if ":" in name:
        return Function.load(name, device)
    raise ValueError(
        f"unknown detector {name!r}: use inception, dinov2, pixels, a TorchScript file (*.pt) or module:function"
    )


def scale_of(info: DetectorInfo) -> tuple[float, float] | None:
    """The `scale` that a reference of `pixels` was made with."""
    return (info.settings["mean"], info.settings["std"]) if info.name == "pixels" else None


def fetch(url: str, sha256: str | None = None, on_bytes: Callable[[int, int], None] | None = None) -> Path:
    """The TorchScript file behind an address, downloaded into the cache at the first call, checked at each later one.

    Raises:
        DownloadError: if it cannot be fetched, or its hash is another one.
    """
    path = cache_folder() / url.rpartition("/")[2]
    download(url, path, kind=ZIP, accept=_whole, largest=LARGEST, sha256=sha256, on_progress=on_bytes)
    return path


def _whole(path: Path) -> None:
    """Raise `DownloadError` unless a file is a zip archive with the records of a TorchScript one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DownloadError(f"what came is no whole zip archive ({error}), and is not kept") from None
    if not {"constants.pkl", "data.pkl"} <= names:
        raise DownloadError("what came is a zip archive, but not of TorchScript, and is not kept")
