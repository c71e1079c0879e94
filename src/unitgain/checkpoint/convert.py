"""Official networks into snapshots, and folders of them into runs."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from unitgain.checkpoint import official
from unitgain.checkpoint.facts import DTYPES
from unitgain.checkpoint.nvidia import check_tensors, on_meta, rename
from unitgain.checkpoint.opened import opened
from unitgain.checkpoint.origin import FileName, Origin, images_seen, origin, parse_name
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError, SnapshotHeader, power_profile
from unitgain.checkpoint.storage import Reader
from unitgain.checkpoint.uncertainty import PREFIX, uncertainty_path, write_with_uncertainty
from unitgain.ema import file_name


def convert_network(path: Path, out: Path, origin: Origin, dtype: str | None = None) -> SnapshotHeader:
    """Write the network of an official file as a snapshot, and its u(sigma) beside it; nothing in it is executed.

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
    with opened(path) as (root, reader, release):
        found = official.network(root, reader)
        denoiser, uncertainty = on_meta(found.config)
        tensors: dict[str, Tensor] = {}
        for name, record in found.records.items():
            tensors |= rename({name: _tensor(name, record, reader)}, denoiser.spec.channels_per_head)
            release()
        check_tensors(tensors, denoiser, uncertainty)
    header = SnapshotHeader(
        network=denoiser.spec,
        sigma_data=denoiser.sigma_data,
        nimg=origin.nimg or 0,
        profile=_profile(origin.sigma_rel),
        recipe=origin.recipe,
        encoder=found.encoder,
        classes=origin.classes,
        data=origin.data,
        label_dropout=0.0 if denoiser.spec.label_dim else None,  # the official loop has none
        license=origin.license,
    )
    own = (tensor for name, tensor in tensors.items() if not name.startswith(PREFIX))
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in own}
    same = dtypes.pop() if len(dtypes) == 1 else "float32"
    write_with_uncertainty(out, header, tensors, dtype or ("float32" if same == "float64" else same))
    return header


def read_network(path: Path) -> official.OfficialNetwork:
    """What an official file says of its network; its tensors are records and are not read.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it is no official network.
    """
    with opened(path) as (root, reader, _):
        return official.network(root, reader)


def network_beside(path: Path) -> official.OfficialNetwork | None:
    """What the newest official network in the folder of a file says of itself; None if there is none."""
    named = [(name.kimg, other) for other in path.parent.glob("*.pkl") if (name := parse_name(other.name)) is not None]
    return read_network(max(named)[1]) if named else None


def find_networks(folder: Path, on_skip: Callable[[str], None] | None = None) -> list[Path]:
    """The raw snapshots in a folder, by images seen and length.

    Args:
        folder: of `.pkl` files.
        on_skip: called with a line for each of them that is left out, saying why.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if two are of the same time and length.
    """
    found: dict[tuple[int, float], Path] = {}
    skip = on_skip or (lambda _: None)
    for path in sorted(folder.glob("*.pkl")):
        name = parse_name(path.name)
        if why := _skipped(name):
            skip(f"skipping {path.name}: {why}")
            continue
        assert name is not None
        key = name.kimg, name.sigma_rel or 0.0
        if key in found:
            raise ValueError(f"{path.name} and {found[key].name} are of the same time and length: keep one run here")
        found[key] = path
    if not found:
        raise FileNotFoundError(
            f"no raw snapshots in {folder}: files are named <prefix>-<thousands of images>-<sigma_rel>.pkl"
        )
    return [found[key] for key in sorted(found)]


def _skipped(name: FileName | None) -> str:
    """Why a file of a folder is left out; empty if it is not."""
    if name is None:
        return "its name does not say time and length, as <prefix>-<thousands of images>-<sigma_rel>.pkl does"
    if name.kimg == 0:
        return "it was taken before the first step, and averages nothing"
    try:
        images_seen(name.kimg)
    except ValueError as error:
        return f"{error} and convert it by itself"
    return ""


def convert_folder(
    folder: Path,
    out: Path,
    *,
    recipe: str | None = None,
    classes: tuple[str, ...] | None = None,
    dtype: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_skip: Callable[[str], None] | None = None,
    on_keep: Callable[[Path, str], None] | None = None,
) -> list[Path]:
    """Write a snapshot per raw snapshot of a folder, as a run that post-hoc EMA reads. An interrupted call goes on.

    Args:
        folder: of `.pkl` files.
        out: folder for the snapshots; those that are there, whole and as asked for here are kept.
        recipe: name of the recipe; by default that of the official run, if a name says it.
        classes: names of the classes.
        dtype: of the snapshots; by default as in the files, and those that are there are kept in whichever they have.
        on_progress: called with (files done, in all).
        on_skip: called with a line for each `.pkl` that is left out: those taken before the first step, and those whose
            names do not say what they are.
        on_keep: called with each snapshot that is there and kept, and the precision of its parameters.

    Returns:
        The snapshots, by images seen and length.

    Raises:
        FileNotFoundError: if there are no raw snapshots.
        Refused: if one is no official network.
        ValueError: if two are of different networks.
    """
    paths, written = find_networks(folder, on_skip), []
    first: SnapshotHeader | None = None
    for done, path in enumerate(paths):
        if on_progress is not None:
            on_progress(done, len(paths))
        of = origin(path, recipe=recipe, classes=classes)
        target = out / file_name(of.nimg or 0, _profile(of.sigma_rel))
        if target in written:
            raise ValueError(f"{path.name} and another file here would both become {target.name}: convert it by itself")
        header, precision = _kept(target, of, dtype) or (convert_network(path, target, of, dtype), None)
        if precision is not None and on_keep is not None:
            on_keep(target, precision)
        first = first or header
        if (header.network, header.sigma_data, header.encoder) != (first.network, first.sigma_data, first.encoder):
            target.unlink()
            uncertainty_path(target).unlink()  # one of them would spoil the run for `unitgain ema`
            raise ValueError(f"{path.name} and {paths[0].name} hold different networks: keep one run in a folder")
        written.append(target)
    if on_progress is not None:
        on_progress(len(paths), len(paths))
    return written


def intact_header(path: Path) -> SnapshotHeader | None:
    """The header of a snapshot if it is there and its contents match its checksums."""
    try:
        with Snapshot(path) as snapshot:
            for _ in snapshot.verified():
                pass
            return snapshot.header
    except (FileNotFoundError, SnapshotError):
        return None


def _kept(path: Path, origin: Origin, dtype: str | None) -> tuple[SnapshotHeader, str] | None:
    """Header and precision of a snapshot that an earlier call wrote, if it is whole, and as this call would have it."""
    header = intact_header(path) if uncertainty_path(path).is_file() else None
    if header is None:
        return None
    with Snapshot(path) as snapshot:
        dtypes = {snapshot.entries[name].dtype for name in snapshot.names if name not in snapshot.buffers}
    told = header.recipe, header.classes, header.license, header.data
    same = told == (origin.recipe, origin.classes, origin.license, origin.data)
    if not same or (dtype is not None and dtypes != {DTYPES[dtype]}):
        return None
    return header, " and ".join(sorted(str(one).removeprefix("torch.") for one in dtypes))


def _profile(sigma_rel: float | None) -> dict[str, object]:
    return {"kind": "unknown"} if sigma_rel is None else power_profile(sigma_rel)


def _tensor(name: str, record: object, reader: Reader) -> Tensor:
    try:
        return reader.tensor(record)
    except Refused as error:
        raise Refused(f"tensor {name}: {error}") from None
