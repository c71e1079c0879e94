"""Averages of any length from stored ones, written to disk in one pass over them (EDM2, Sections 3.2 and 3.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unitgain.checkpoint.writer import check_dtype
from unitgain.ema import check_names, gamma_to_sigma_rel
from unitgain.files import naming
from unitgain.lock import LOCK, hold
from unitgain.posthoc import stream
from unitgain.posthoc.jobs import jobs
from unitgain.posthoc.output import (
    JOURNAL,
    Output,
    check_folder,
    check_originals,
    filename,
    first_file,
    identity,
    is_there,
)
from unitgain.posthoc.planning import UNREACHABLE, Plan, plan
from unitgain.posthoc.targets import Length, Target


@dataclass(frozen=True)
class Reconstruction:
    """A snapshot that `reconstruct` wrote.

    Attributes:
        path: the file, or the first of its shards.
        sigma_rel: its relative length; None for one given by its half-life.
        error: relative L2 error of its averaging profile, the largest where tensors have lengths of their own.
    """

    path: Path
    sigma_rel: float | None
    error: float


def reconstruct(
    run: Path | str,
    targets: Sequence[float | Length] | float | Length,
    out: Path | str,
    *,
    t: float | None = None,
    dtype: str | None = "float16",
    shard_bytes: int | None = None,
    normalize: bool = True,
    verify: bool = True,
    threads: int = 0,
    max_error: float = UNREACHABLE,
    add: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Reconstruction]:
    """Write snapshots averaged at lengths that training did not track, reading each stored one once.

    Memory: some MB per thread, whatever the network; the results grow on the disk, in hidden files until they are
    whole. Interrupted, it goes on where it was when it is called again with the same arguments. Results that are there
    already, of the same snapshots and made with the same options, are not made again. Another call into the same
    folder, of this process or another, is waited for.

    Args:
        run: folder of a run, or of snapshots.
        targets: relative lengths, each in (0, 0.2886), or `Target`s that say more; one, or several.
        out: folder for the results, named as snapshots are.
        t: end of the averages; that of the last snapshot by default.
        dtype: of the results: "float16", "bfloat16" or "float32"; None for what each tensor has in the last snapshot.
        shard_bytes: largest size of a file; None for one file per result.
        normalize: as in `solve`.
        verify: check the checksums of what is read.
        threads: 0 for one per processor.
        max_error: as in `plan`.
        add: write nothing over anything, nor beside snapshots that are no results: refuse a folder that holds some, or
            one of the same name that is of other snapshots or options.
        on_progress: called with (bytes read, bytes in all).

    Returns:
        What was written, in the order of `targets`.

    Raises:
        FileExistsError: as `add` says; if `out` is where the snapshots are, or a result would replace one that is no
            reconstruction.
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one is damaged; nothing is written.
        ValueError: as `plan`, and if two results would have one name, or one has values that are not finite in `dtype`.
        OSError: if something cannot be written.
    """
    if dtype is not None:
        check_dtype(dtype)
    targets = (targets,) if isinstance(targets, int | float | Length) else targets
    planned = plan(run, targets, t=t, normalize=normalize, max_error=max_error)
    out, identities = Path(out), _identities(planned, dtype, shard_bytes)
    if out.resolve() in {source.path.parent.resolve() for source in planned.sources}:
        raise FileExistsError(f"{out} holds the snapshots that averages are made of: choose another folder")
    named = list(zip(planned.targets, identities.items(), strict=True))

    def missing() -> tuple[Target, ...]:
        check_originals(out, identities)
        if add:
            check_folder(out, identities)
        return tuple(target for target, (name, known) in named if not is_there(out / name, known))

    if missing() or any((out / left).exists() for left in (JOURNAL, LOCK)):  # by a call that was killed
        with naming(out), hold(out, wait=True):
            rest = replace(planned, targets=missing())  # who was waited for may have made some
            with Output(rest, out, dtype, shard_bytes) as output:
                work = list(jobs(rest.sources, output.resume(), rest.columns, rest.like, rest.copied, dtype))
                on_tensor = output.tensor_done
                stream.run(
                    work, output.sink, threads=threads, verify=verify, on_progress=on_progress, on_tensor=on_tensor
                )
                output.finish()
    return [
        Reconstruction(first_file(out / name) or out / name, _sigma_rel(target), planned.error(target))
        for target, (name, _) in named
    ]


def _identities(planned: Plan, dtype: str | None, shard_bytes: int | None) -> dict[str, str]:
    """What the results are, by the name of their file, in the order of the targets."""
    check_names([filename(target) for target in planned.targets])
    return {filename(target): identity(planned, target, dtype, shard_bytes) for target in planned.targets}


def _sigma_rel(target: Target) -> float | None:
    if target.sigma_rel is None and target.gamma is not None:
        return gamma_to_sigma_rel(target.gamma)
    return target.sigma_rel
