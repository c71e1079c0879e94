"""Weights of detectors: from a path, or fetched once into a cache."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unitgain import files
from unitgain.download import check_sha256, download
from unitgain.files import cache_folder
from unitgain.kinds import ZIP
from unitgain.text import brief
from unitgain.transfer import DownloadError
from unitgain.trust import is_number

if TYPE_CHECKING:
    import torch

    from unitgain.metrics.detectors import Detector, DetectorInfo, Scale
    from unitgain.parallel import World

DINOV2 = "facebook/dinov2-large"  # ViT-L/14, 1024 features

INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
SCRIPTS = (".pt", ".pth", ".ts")
LARGEST = 2_000_000_000  # bytes of weights that are fetched; Inception's have 95 MB


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the networks of metrics come from.

    Args:
        inception: file of Inception's weights (inception-2015-12-05.pt); None to fetch it once into the cache.
        inception_sha256: what its SHA-256 must be.
        dinov2: folder or Hub id of DINOv2's weights.
    """

    inception: Path | None = None
    inception_sha256: str | None = None
    dinov2: str = DINOV2

    def check_used(self, detectors: Iterable[str]) -> None:
        """Raise `ValueError` if something is said of a network that is none of these detectors."""
        known = {"inception": "inception", "inception_sha256": "inception", "dinov2": "dinov2"}
        names = set(detectors)
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default and known[field.name] not in names:
                raise ValueError(
                    f"--{field.name.replace('_', '-')} is of the detector {known[field.name]}, and what is measured "
                    f"needs {', '.join(sorted(names)) or 'none'} alone: leave it out"
                )

    def fetch(
        self, detectors: Iterable[str], world: "World", on_bytes: Callable[[int, int], None] | None = None
    ) -> "Weights":
        """With the files that these detectors need; the first process fetches what is not there before the others look.

        Args:
            detectors: their names.
            world: all its processes call this.
            on_bytes: called with (bytes there, bytes in all) while something is fetched, in the first process.

        Raises:
            DownloadError: if it cannot be fetched, or has another hash.
        """
        if self.inception is not None or "inception" not in detectors:
            return self
        world.on_main(lambda: fetch(INCEPTION_URL, self.inception_sha256, on_bytes))
        return dataclasses.replace(self, inception=fetch(INCEPTION_URL, self.inception_sha256))  # other machines too


def open_detector(
    name: str,
    device: "torch.device | str" = "cpu",
    weights: Weights | None = None,
    *,
    scale: "Scale | None" = None,
) -> "Detector":
    """A detector by name.

    Args:
        name: `inception`, `dinov2`, `pixels`, a TorchScript file (`*.pt`), or a Python function `module:function`.
        device: where it runs.
        weights: where those of `inception` and `dinov2` come from.
        scale: mean and standard deviation of `pixels`, of arrays per channel; those of `Pixels` by default.

    Raises:
        ValueError: if there is none of that name.
        FileNotFoundError: if its weights are not there.
        DownloadError: if they cannot be fetched, or have another hash.
    """
    from unitgain.metrics.detectors import Function, Pixels
    from unitgain.metrics.networks import DinoV2, open_script

    weights = weights or Weights()
    if name == "pixels":
        return Pixels(*(scale or ()), device=device)
    if name == "inception":
        path = weights.inception or fetch(INCEPTION_URL, weights.inception_sha256)
        if weights.inception is not None and path.is_file():
            check_sha256(str(path), files.sha256(path), weights.inception_sha256)
        return open_script(path, device, name)
    if name == "dinov2":
        return DinoV2(weights.dinov2, device)
    if name.endswith(SCRIPTS):
        return open_script(Path(name), device)
    if ":" in name:
        return Function.load(name, device)
    raise ValueError(
        f"unknown detector {name!r}: use inception, dinov2, pixels, a TorchScript file (*.pt) or module:function"
    )


def name_of(detector: str) -> str:
    """The name that a detector says it has, from the one that it is opened by: files leave their folders out."""
    return Path(detector).name if detector.endswith(SCRIPTS) else detector


def check_arrays(detectors: Iterable[str]) -> None:
    """Raise `ValueError` unless detectors of these names take signals, fields and volumes, and not pictures alone."""
    from unitgain.metrics.detectors import ARRAYS

    for name in detectors:
        if name != "pixels" and (":" not in name or name.endswith(SCRIPTS)):
            raise ValueError(f"{name_of(name)} sees pictures alone, and these are arrays: {ARRAYS}")


def scale_of(info: "DetectorInfo") -> "Scale | None":
    """The `scale` that a reference of `pixels` was made with; None of other detectors.

    Raises:
        ValueError: if it does not say it.
    """
    if info.name != "pixels":
        return None
    mean, std = (tuple(one) if isinstance(one := info.settings.get(name), list) else one for name in ("mean", "std"))
    numbers = [*(mean if isinstance(mean, tuple) else [mean]), *(std if isinstance(std, tuple) else [std])]
    if mean is None or std is None or not all(map(is_number, numbers)):
        raise ValueError(f"the reference says the scale of pixels as {brief([mean, std])}: cannot be; make it again")
    return mean, std


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
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # the last of versions it does not know
        raise DownloadError(f"what came is no whole zip archive ({error}), and is not kept") from None
    if not {"constants.pkl", "data.pkl"} <= names:
        raise DownloadError("what came is a zip archive, but not of TorchScript, and is not kept")
