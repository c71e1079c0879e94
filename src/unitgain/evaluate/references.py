"""References of real images: opened from files, ours or official ones, made of images, and converted."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from unitgain import files
from unitgain.checkpoint.export import export_references
from unitgain.checkpoint.statistics import read_reference
from unitgain.evaluate.images import Images
from unitgain.metrics.detectors import Detector
from unitgain.metrics.metric import Metric, parse_metrics
from unitgain.metrics.reference import (
    OFFICIAL,
    Fingerprint,
    Reference,
    load_references,
    official_entries,
    official_references,
    save_references,
)
from unitgain.metrics.summary import Summary, summarize
from unitgain.parallel import World

OnImages = Callable[[float, int], object]
SUFFIXES = (".npz", ".pkl")  # of files that hold a reference


def open_references(path: Path) -> dict[str, Reference]:
    """References by name of the detector: ours, or official ones, `.npz` or `.pkl`; nothing in them is executed.

    Raises:
        FileNotFoundError: if there is no file.
        ReferenceFileError: if it is no reference or damaged.
        Refused: if a pickle holds anything else than statistics.
    """
    if path.suffix == ".pkl":
        return official_references(read_reference(path), path.name, files.sha256(path))
    return load_references(path)


def make_references(
    images: Images,
    detectors: Sequence[Detector],
    *,
    rows: Collection[str] = (),
    world: World | None = None,
    on_images: OnImages | None = None,
) -> tuple[dict[str, Summary], str]:
    """Summaries of real images or arrays for `save_references`, and their fingerprint, on every process.

    Args:
        images: all of them are read.
        detectors: with different names.
        rows: names of those whose features of every image are kept.
        world: processes that share the work.
        on_images: as in `Judge.measure`.
    """
    world = world or World()
    fingerprint = Fingerprint()

    def seen() -> Iterator[Tensor]:
        for batch in images.batches(world.share(range(len(images)))):
            fingerprint.update(batch)
            yield batch

    progress = world.progress(on_images, len(images))
    summaries = summarize(seen(), detectors, rows=rows, world=world, on_images=progress)
    return summaries, fingerprint.hex(world.gather(fingerprint.hex()))


def references_of(
    images: Images,
    detectors: Sequence[Detector],
    metrics: Sequence[str | Metric],
    *,
    world: World | None = None,
    on_images: OnImages | None = None,
) -> dict[str, Reference]:
    """References in memory, with what these metrics need; otherwise as `make_references`."""
    rows = [metric.detector for metric in parse_metrics(metrics, detectors[0].info.name) if metric.rows]
    summaries, fingerprint = make_references(images, detectors, rows=rows, world=world, on_images=on_images)
    return {name: Reference.of(summary, images.source.name, fingerprint) for name, summary in summaries.items()}


def import_references(path: Path, out: Path, only: str | None = None) -> dict[str, Reference]:
    """Write official statistics as a file of `unitgain metrics --reference`; nothing in them is executed.

    Args:
        path: the official file, `.pkl` or `.npz`.
        out: the `.npz` file to write.
        only: one of `fid` and `fd_dinov2`; None for all that there is.

    Returns:
        What was written, by name of the detector.

    Raises:
        FileNotFoundError: if there is no file.
        ReferenceFileError: if it is no reference or damaged.
        Refused: if a pickle holds anything else than statistics.
        ValueError: if it has no statistics of that name.
    """
    references = open_references(path)
    if only is not None:
        if OFFICIAL.get(only) not in references:
            known = ", ".join(name for name, detector in OFFICIAL.items() if detector in references)
            raise ValueError(f"{path} has no statistics for {only}, only for {known}")
        references = {OFFICIAL[only]: references[OFFICIAL[only]]}
    summaries, (first, *_) = {name: one.summary for name, one in references.items()}, references.values()
    save_references(out, summaries, path.name, first.fingerprint)
    return references


def export_official(path: Path, out: Path, only: str | None = None) -> list[str]:
    """Write references as official tools read them; the inverse of `import_references`.

    Args:
        path: an `.npz` of `unitgain metrics reference`.
        out: the `.pkl` file to write.
        only: as there.

    Returns:
        The official names of what was written.

    Raises:
        FileNotFoundError: if there is no file.
        ReferenceFileError: if it is damaged.
        ValueError: if nothing of it has an official name, or that name.
    """
    references = load_references(path)
    entries = official_entries(references)
    entries = {name: entry for name, entry in entries.items() if only in (None, name)}
    if not entries:
        raise ValueError(f"{path} has statistics of {', '.join(references)}; official ones are {', '.join(OFFICIAL)}")
    export_references(entries, out)
    return list(entries)
