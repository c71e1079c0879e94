"""Measure images once or, as the papers do, several times with other seeds; make references."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unitgain.evaluate.generated import Generated
from unitgain.evaluate.images import Images, as_ranges
from unitgain.metrics.detectors import Detector
from unitgain.metrics.measure import References, Settings, measure, plan
from unitgain.metrics.names import parse_metrics
from unitgain.metrics.record import Record
from unitgain.metrics.reference import Fingerprint, Reference
from unitgain.metrics.summary import Summary, Wanted, summarize
from unitgain.parallel import World
from unitgain.serial import to_dict

OnImages = Callable[[float, int], None]


@dataclass(frozen=True)
class Result:
    """A metric over repetitions.

    Args:
        records: one per repetition.
    """

    records: tuple[Record, ...]

    @property
    def best(self) -> float:
        """The lowest value, or the highest where higher is better."""
        values = [record.value for record in self.records]
        return max(values) if self.records[0].higher else min(values)

    @property
    def spread(self) -> float:
        """From the lowest to the highest value."""
        values = [record.value for record in self.records]
        return max(values) - min(values)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: best, spread and the records."""
        first = self.records[0]
        return {
            "metric": first.metric,
            "detector": first.detector.name,
            "best": self.best,
            "spread": self.spread,
            "records": [to_dict(record) for record in self.records],
        }


def measure_images(
    images: Images,
    detectors: Sequence[Detector],
    metrics: Sequence[str],
    references: References | None = None,
    *,
    repeat: int = 1,
    world: World | None = None,
    settings: Settings | None = None,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Measure images, `repeat` times in one go.

    Files are split into as many equal parts, in the order of their names. Generated images are drawn of the seeds and
    of as many following ones: seeds 0-49999, 50000-99999, ...

    Args:
        images: from `open_images` or `open_snapshot`.
        detectors: as in `measure`.
        metrics: as in `measure`.
        references: as in `measure`.
        repeat: how many times.
        world: processes that share the work.
        settings: numbers of the metrics.
        on_images: called in every process with (images done in all, images in all); those of other processes are taken
            to be as many as here.

    Returns:
        A result per metric, on every process.

    Raises:
        ValueError: as `measure`, or if the images or seeds cannot be repeated.
    """
    world = world or World()
    plan(metrics, detectors, references)
    rounds = repetitions(images, repeat)
    total = sum(len(numbers) for _, numbers in rounds)
    done = 0
    runs: list[list[Record]] = []
    for part, numbers in rounds:
        progress = world.progress(on_images, total, before=done)
        source = dataclasses.replace(part.source, **_seeds(part, numbers))
        runs.append(
            measure(
                part.batches(world.share(numbers)),
                detectors,
                metrics,
                references,
                world=world,
                source=source,
                settings=settings,
                on_images=progress,
            )
        )
        done += len(numbers)
    return [Result(tuple(records)) for records in zip(*runs, strict=True)]


def make_references(
    images: Images,
    detectors: Sequence[Detector],
    *,
    rows: bool = False,
    world: World | None = None,
    on_images: OnImages | None = None,
) -> tuple[dict[str, Summary], str]:
    """Summaries of real images for `save_references`, and their fingerprint, on every process.

    Args:
        images: all of them are read.
        detectors: with different names.
        rows: keep the features of every image, which KID, precision, recall, density and coverage need.
        world: processes that share the work.
        on_images: as in `measure_images`.
    """
    world = world or World()
    fingerprint = Fingerprint()

    def seen() -> Iterator[Tensor]:
        for batch in images.batches(world.share(range(len(images)))):
            fingerprint.update(batch)
            yield batch

    wanted = {detector.info.name: Wanted(rows=rows) for detector in detectors}
    progress = world.progress(on_images, len(images))
    summaries = summarize(seen(), detectors, wanted, world=world, on_images=progress)
    return summaries, fingerprint.hex(world.gather(fingerprint.hex()))


def references_of(
    images: Images,
    detectors: Sequence[Detector],
    metrics: Sequence[str],
    *,
    world: World | None = None,
    on_images: OnImages | None = None,
) -> dict[str, Reference]:
    """References in memory, with what these metrics need; otherwise as `make_references`."""
    rows = any(metric.needs.rows for metric in parse_metrics(metrics, detectors[0].info.name))
    summaries, fingerprint = make_references(images, detectors, rows=rows, world=world, on_images=on_images)
    return {name: Reference.of(summary, images.source.name, fingerprint) for name, summary in summaries.items()}


def repetitions(images: Images, repeat: int) -> list[tuple[Images, Sequence[int]]]:
    """Images and the numbers of those to measure, for each repetition.

    Raises:
        ValueError: if there are too few images, or the seeds are no range.
    """
    if repeat < 1 or len(images) < 2 * repeat:
        raise ValueError(f"--repeat {repeat}: needs at least 1 and two images each; there are {len(images)} images")
    if repeat == 1:
        return [(images, range(len(images)))]
    if not isinstance(images, Generated):
        each = len(images) // repeat
        return [(images, range(i * each, (i + 1) * each)) for i in range(repeat)]
    seeds = images.seeds
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        raise ValueError(f"--repeat {repeat} needs the seeds as a range such as 0-49999, not {as_ranges(seeds)}")
    rounds: list[tuple[Images, Sequence[int]]] = []
    for i in range(repeat):
        start = seeds[0] + i * len(seeds)
        rounds.append((images.of_seeds(range(start, start + len(seeds))), range(len(seeds))))
    return rounds


def _seeds(images: Images, numbers: Sequence[int]) -> Mapping[str, Any]:
    """The seeds of a part; those of a part of a folder are not known."""
    if isinstance(images, Generated):
        return {"seeds": as_ranges([images.seeds[number] for number in numbers])}
    return (
        {} if len(numbers) == len(images) else {"seeds": None, "name": f"{images.source.name} [{as_ranges(numbers)}]"}
    )
