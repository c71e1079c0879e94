"""Weights of detectors: from a path, or fetched once into a cache."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch

from unitgain.files import atomic, write_text
from unitgain.metrics.detectors import Detector, DetectorInfo, Function, Pixels, file_hash
from unitgain.metrics.networks import DINOV2, DinoV2, open_script

INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
CACHE = "UNITGAIN_CACHE"
CHUNK = 1 << 20


class DownloadError(Exception):
    """A file could not be fetched, or is not the one that was asked for."""


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
            _check(str(path), file_hash(path), sha256)
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


def cache_folder() -> Path:
    """Where fetched files lie: `$UNITGAIN_CACHE`, or `unitgain` in the user's cache."""
    if own := os.environ.get(CACHE):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "unitgain"


def fetch(url: str, sha256: str | None = None, on_bytes: Callable[[int, int], None] | None = None) -> Path:
    """The file behind an address, downloaded at the first call.

    Its hash is kept beside it and checked at each later call.

    Raises:
        DownloadError: if it cannot be fetched, or its hash is another one.
    """
    path = cache_folder() / url.rpartition("/")[2]
    kept = path.with_name(f"{path.name}.sha256")
    if path.is_file():
        expected = sha256 or (kept.read_text(encoding="utf-8").strip() if kept.is_file() else None)
        _check(str(path), file_hash(path), expected)
    else:
        write_text(kept, download(url, path, sha256, on_bytes) + "\n")
    return path


def download(
    url: str, path: Path, sha256: str | None = None, on_bytes: Callable[[int, int], None] | None = None
) -> str:
    """Fetch a file, whole or not at all; returns its SHA-256.

    Args:
        url: `https` or `http`.
        path: where it goes.
        sha256: what it must be, if known.
        on_bytes: called with (bytes there, bytes in all or 0).

    Raises:
        DownloadError: if there is no network, the file is cut short, or its hash is another one.
    """
    digest = hashlib.sha256()
    done = 0
    try:
        with atomic(path) as temporary:
            with urllib.request.urlopen(url, timeout=60) as response, open(temporary, "wb") as file:
                total = int(response.headers.get("Content-Length") or 0)
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    if on_bytes is not None:
                        on_bytes(done, total)
            if total and done != total:
                raise DownloadError(f"{url} was cut short after {done:,} of {total:,} bytes: try again")
            _check(url, digest.hexdigest(), sha256)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        code = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        reason = f"{code}{getattr(error, 'reason', error)}"
        raise DownloadError(
            f"cannot fetch {url} ({reason}). Without a network, put the file there yourself: {path}"
        ) from error
    return digest.hexdigest()


def _check(where: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected.lower():
        raise DownloadError(
            f"{where} has the SHA-256 {found}, expected was {expected}: it is damaged or another file; delete it"
        )
