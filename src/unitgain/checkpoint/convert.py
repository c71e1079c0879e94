"""Official files: networks into snapshots, folders of them into runs; reference statistics read."""

import mmap
import re
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unitgain.checkpoint import official
from unitgain.checkpoint.nvidia import check_tensors, on_meta, rename
from unitgain.checkpoint.pickles import read
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError, SnapshotHeader, power_profile, write_snapshot
from unitgain.checkpoint.storage import Reader
from unitgain.ema import sigma_rel_to_gamma

LICENSE = "CC BY-NC-SA 4.0"
# `<prefix>-<thousands of images, 7 digits>-<sigma_rel, 3 decimals>.pkl`
FILE_NAME = re.compile(r"(?P<prefix>.+)-(?P<kimg>\d{7})-(?P<sigma_rel>0\.\d{3})\.pkl")
OFFICIAL_RUN = re.compile(r"edm2-img(512|64)-(xxs|xs|s|m|l|xl|xxl)(-uncond)?")
STATISTICS = ("fid", "fd_dinov2")  # what a reference file may hold, by official name
MAX_FEATURES = 16_384
Statistics = dict[str, NDArray[np.float64]]  # "mu" and "sigma"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the name of an official file says, or its user.

    Args:
        nimg: images seen in training.
        sigma_rel: length of the average.
        recipe: name of the recipe.
        license: of the weights, if known.
        data: name of what it was trained on, if known.
    """

    nimg: int
    sigma_rel: float
    recipe: str
    license: str | None = None
    data: str | None = None


def images_seen(kimg: int) -> int:
    """Images seen, from their thousands rounded down: the multiple of 1024 that gives these.

    Raises:
        ValueError: if none does.
    """
    nimg = -(-kimg * 1000 // 1024) * 1024
    if nimg // 1000 != kimg:
        raise ValueError(f"no multiple of 1024 images is {kimg} thousands rounded down; give the number with --nimg")
    return nimg


def origin(path: Path, *, nimg: int | None = None, sigma_rel: float | None = None, recipe: str | None = None) -> Origin:
    """Where a network comes from: by the name of its file, and what is given instead.

    Raises:
        ValueError: if the name does not say it and it is not given.
    """
    match = FILE_NAME.fullmatch(path.name)
    if match is None and (nimg is None or sigma_rel is None):
        raise ValueError(
            f"{path.name} is not named <prefix>-<thousands of images, 7 digits>-<sigma_rel>.pkl as official files are; "
            "give --nimg and --sigma-rel"
        )
    if match is not None:
        nimg = images_seen(int(match["kimg"])) if nimg is None else nimg
        sigma_rel = float(match["sigma_rel"]) if sigma_rel is None else sigma_rel
    assert nimg is not None and sigma_rel is not None
    if nimg < 1:
        raise ValueError(f"images seen must be at least 1, not {nimg}")
    # Reconstructed networks are named after their run; raw snapshots lie in a folder that is.
    places = (match["prefix"] if match else "", path.absolute().parent.name)
    run = next((found[0] for place in places if (found := OFFICIAL_RUN.fullmatch(place))), None)
    data = None if run is None else ("ImageNet-512" if "img512" in run else "ImageNet-64")
    license = None if run is None else LICENSE
    return Origin(nimg=nimg, sigma_rel=sigma_rel, recipe=recipe or run or "official", license=license, data=data)


def convert_network(path: Path, out: Path, origin: Origin, dtype: str | None = None) -> SnapshotHeader:
    """Write the network of an official file as a snapshot; nothing in the file is executed.

    Args:
        path: the `.pkl` file.
        out: the snapshot; replaced if it is there.
        origin: where the network comes from.
        dtype: of the parameters in the snapshot; as they are in the file (float16) by default.

    Returns:
        What the snapshot says of itself.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it is no official network or holds anything else than one, naming it and its position.
        SnapshotError: if its weights are not finite.
    """
    with _opened(path) as (root, reader, release):
        found = official.network(root, reader)
        denoiser, uncertainty = on_meta(found.config)
        tensors: dict[str, Tensor] = {}
        for name, record in found.records.items():
            tensors |= rename({name: _tensor(name, record, reader)}, denoiser.spec.channels_per_head)
            release()
        check_tensors(tensors, denoiser, uncertainty)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("uncertainty.")}
    tensors.clear()
    header = SnapshotHeader(
        network=denoiser.spec,
        sigma_data=denoiser.sigma_data,
        nimg=origin.nimg,
        profile=power_profile(origin.sigma_rel, sigma_rel_to_gamma(origin.sigma_rel)),
        recipe=origin.recipe,
        encoder=found.encoder,
        data=origin.data,
        label_dropout=0.0 if denoiser.spec.label_dim else None,  # the official loop has none
        license=origin.license,
    )
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in kept.values()}
    same = dtypes.pop() if len(dtypes) == 1 else "float32"
    write_snapshot(out, header, kept, dtype or ("float32" if same == "float64" else same))
    return header


def read_network(path: Path) -> official.OfficialNetwork:
    """What an official file says of its network; its tensors are records and are not read.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it is no official network.
    """
    with _opened(path) as (root, reader, _):
        return official.network(root, reader)


def find_networks(folder: Path) -> list[Path]:
    """The raw snapshots in a folder, by images seen and length.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if two have the same name but for their prefix.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("*.pkl")):
        if match := FILE_NAME.fullmatch(path.name):
            key = match["kimg"], match["sigma_rel"]
            if key in found:
                raise ValueError(
                    f"{path.name} and {found[key].name} are of the same time and length: keep one run here"
                )
            found[key] = path
    if not found:
        raise FileNotFoundError(
            f"no raw snapshots in {folder}: files are named <prefix>-<thousands of images, 7 digits>-<sigma_rel>.pkl"
        )
    return [found[key] for key in sorted(found)]


def convert_folder(
    folder: Path,
    out: Path,
    *,
    recipe: str | None = None,
    dtype: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a snapshot per raw snapshot of a folder, as a run that post-hoc EMA reads. An interrupted call goes on.

    Args:
        folder: of `.pkl` files.
        out: folder for the snapshots; those that are there and whole are kept.
        recipe: name of the recipe; by default that of the official run, if a name says it.
        dtype: of the snapshots; as in the files by default.
        on_progress: called with (files done, in all).

    Returns:
        The snapshots, by images seen and length.

    Raises:
        FileNotFoundError: if there are no raw snapshots.
        Refused: if one is no official network.
        ValueError: if two are of different networks.
    """
    paths, written = find_networks(folder), []
    first: SnapshotHeader | None = None
    for done, path in enumerate(paths):
        if on_progress is not None:
            on_progress(done, len(paths))
        of = origin(path, recipe=recipe)
        target = out / f"{of.nimg:010d}-{of.sigma_rel:.3f}.safetensors"
        header = whole(target) or convert_network(path, target, of, dtype)
        first = first or header
        if (header.network, header.sigma_data, header.encoder) != (first.network, first.sigma_data, first.encoder):
            target.unlink()  # one of them would spoil the run for `unitgain ema`
            raise ValueError(f"{path.name} and {paths[0].name} hold different networks: keep one run in a folder")
        written.append(target)
    if on_progress is not None:
        on_progress(len(paths), len(paths))
    return written


def whole(path: Path) -> SnapshotHeader | None:
    """The header of a snapshot if it is there and its contents match its checksum."""
    try:
        with Snapshot(path) as snapshot:
            for _ in snapshot.verified():
                pass
            return snapshot.header
    except (FileNotFoundError, SnapshotError):
        return None


def read_reference(path: Path) -> dict[str, Statistics]:
    """Official reference statistics, `.pkl` or EDM's `.npz`, by the names in `STATISTICS`.

    Returns:
        For each, the mean `mu`, `[d]`, and the covariance `sigma`, `[d, d]`, float64.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it holds anything else.
    """
    if path.suffix == ".npz":
        return {"fid": _reference_npz(path)}
    with _opened(path) as (root, reader, _):
        found = {}
        for name, record in root.items():
            if name not in STATISTICS or type(record) is not dict or set(record) != {"mu", "sigma"}:
                known = " and ".join(STATISTICS)
                raise Refused(f"{str(name)[:64]!a} is no pair of mu and sigma under {known}: these are no statistics")
            found[name] = _statistics(reader.array(record["mu"]), reader.array(record["sigma"]))
        return found


@contextmanager
def _opened(path: Path) -> Generator[tuple[Mapping[Any, object], Reader, Callable[[], None]], None, None]:
    """The contents of a pickle, a reader of its tensors, and a function that lets go of what was read of the file."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    size = path.stat().st_size
    if size == 0:
        raise Refused(f"{path} is empty")
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        root, end = read(memoryview(pages), official.NAMES, on_call=official.check_call)
        if end != size:
            raise Refused(f"byte {end:,}: {size - end:,} bytes follow the end of the pickle")
        if type(root) is not dict:
            raise Refused(f"it holds a {type(root).__name__.lower()}, not the dict of an official file")
        yield root, Reader(size), lambda: pages.madvise(mmap.MADV_DONTNEED)
    except ValueError as error:
        raise Refused(f"{path}: {error}") from None


def _tensor(name: str, record: object, reader: Reader) -> Tensor:
    try:
        return reader.tensor(record)
    except Refused as error:
        raise Refused(f"tensor {name}: {error}") from None


def _reference_npz(path: Path) -> Statistics:
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > 2 * size:
                raise Refused(f"{path}: {unpacked:,} bytes are packed into {size:,}, more than statistics allow")
        with np.load(path, allow_pickle=False) as arrays:
            if not {"mu", "sigma"} <= set(arrays.files):
                raise Refused(f"{path}: it has {', '.join(arrays.files)[:200]!a}, not mu and sigma")
            mean, cov = arrays["mu"], arrays["sigma"]
    except Refused:
        raise
    except Exception as error:  # NumPy and zipfile raise nearly anything for a damaged file
        raise Refused(f"{path} cannot be read: it is damaged, or no .npz file ({error})") from None
    if mean.dtype.kind != "f" or cov.dtype.kind != "f":
        raise Refused(f"{path}: mu and sigma are of dtype {mean.dtype} and {cov.dtype}, not of real numbers")
    return _statistics(mean.astype(np.float64), cov.astype(np.float64))


def _statistics(mean: NDArray[np.float64], cov: NDArray[np.float64]) -> Statistics:
    if mean.ndim != 1 or not 1 <= len(mean) <= MAX_FEATURES or cov.shape != (len(mean), len(mean)):
        raise Refused(f"mu of shape {mean.shape} and sigma of shape {cov.shape} are no mean and covariance")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise Refused("mu or sigma has values that are not finite")
    scale = np.abs(cov).max()
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-8 * max(scale, 1e-30)) or (np.diag(cov) < -1e-6 * scale).any():
        raise Refused("sigma is not symmetric with a diagonal of at least 0: it is no covariance")
    return {"mu": mean, "sigma": cov}
