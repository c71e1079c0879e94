"""Evaluate the cells of a sweep, each once."""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unitgain.checkpoint.snapshot import Snapshot, list_snapshots
from unitgain.draw.networks import SELF, Network, open_network
from unitgain.draw.rows import without_place
from unitgain.draw.settings import DrawSettings
from unitgain.evaluate.generated import Generated
from unitgain.evaluate.judge import Judge
from unitgain.hub import locate, names_network
from unitgain.metrics.metric import Metric
from unitgain.parallel import World
from unitgain.posthoc.targets import Target
from unitgain.sample.generation import check_batch
from unitgain.serial import to_dict
from unitgain.sweep.averages import Averages
from unitgain.sweep.cells import Cell, CellResult, SweepConfig
from unitgain.sweep.table import Table, key_of
from unitgain.sweep.tensors import PAPER, paper_tensors
from unitgain.trust import is_number


@dataclass
class Sweep:
    """A run, what guides it, how it is judged, and the table of what is known.

    Args:
        run: folder of the run.
        judge: metrics.
        out: folder of the table and of the averages.
        guide: folder of a run, whose averages are reconstructed too; a network by name; "self" for the main network
            without its label; None if nothing is guided.
        settings: how images are drawn; weights of guidance are those of the cells.
        t: where averages end; at the last snapshot by default.
        guide_t: the same for the guide.
        batch: images in flight at a time.
        world: processes that share the cells.

    Raises:
        FileNotFoundError: if there is no run or no guide.
        ValueError: if the run is a file, `batch` is not positive, or `guide_t` is given and the guide has no averages.
    """

    run: Path
    judge: Judge
    out: Path
    guide: str | None = None
    settings: DrawSettings = field(default_factory=DrawSettings)
    t: float | None = None
    guide_t: float | None = None
    batch: int = 64
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        check_batch(self.batch)
        self.run, self.out = Path(self.run), Path(self.out)
        if self.run.is_file():
            raise ValueError(f"{self.run} is a file, and no run: name the folder of a run, with its snapshots")
        folder = self.out / "averages"
        self.main = Averages(self.run, folder, self.t)
        guide = Path(str(self.guide))
        is_run = self.guide not in (None, SELF) and guide.is_dir() and not names_network(str(guide))
        if self.guide_t is not None and not is_run:
            raise ValueError(
                f"{self.guide_t:g} images seen of the guide (--guide-nimg) need a guide that is the folder of a run"
            )
        self.guide_averages = Averages(guide, folder, self.guide_t) if is_run else None
        self.table = Table(self.out, self.world.rank)
        self._open = functools.lru_cache(maxsize=2)(open_network)

    @property
    def tied(self) -> bool:
        """Whether the guide has averages of its own."""
        return self.guide_averages is not None

    def out_of_reach(self, config: SweepConfig) -> tuple[set[float], set[float]]:
        """Lengths of the network, and of the guide where it has its own, that no average can be made of."""
        lengths = set(self.main.out_of_reach(config.lengths))
        if self.guide_averages is None:
            return lengths, set()
        if config.guide_lengths is None:
            return lengths | set(self.guide_averages.out_of_reach(config.lengths)), set()
        return lengths, set(self.guide_averages.out_of_reach(config.guide_lengths))

    def reconstruct(self, cells: Sequence[Cell], on_progress: Callable[[int, int], None] | None = None) -> None:
        """Make the averages of these cells, as far as they are not there, reading the snapshots of a run once."""
        self.main.make([cell.target() for cell in cells], on_progress)
        if self.guide_averages is not None:
            guides = [Target(sigma_rel=cell.guide_length) for cell in cells if cell.guide_length is not None]
            self.guide_averages.make(guides, on_progress)

    def images(self, cell: Cell, seeds: Sequence[int], on_images: Callable[[float], None] | None = None) -> Generated:
        """The images of a cell, drawn as they are read.

        Raises:
            ValueError: if it is guided and nothing guides, if network, guide and settings do not fit, or a network is
                told more than a class and the settings do not say what.
        """
        cell = self.drawn_as(cell)
        guide = self.guide_of(cell)
        main = self._network(str(self.main.path(cell.target())))
        other = None if guide in (None, SELF) else self._network(str(guide))
        settings, device = self.settings_of(cell), self.world.device
        return Generated(main, other, settings, seeds, device=device, batch=self.batch, on_images=on_images)

    def keys(self, cell: Cell, seeds: range) -> dict[str, str]:
        """Key in the table by label of the metric; no more than headers of networks is read."""
        cell = self.drawn_as(cell)
        guide = self.guide_of(cell)
        about = {
            "device": self.world.device.type,
            "main": {"sha256": _sha256(self.main.path(cell.target()))},
            "guide": guide if guide in (None, SELF) else _sha256(_located(str(guide))),
            "settings": without_place(self.settings_of(cell).record(self.world.device)),
            "seeds": [seeds.start, seeds.stop],
        }
        return {name: key_of({**about, "judged": identity}) for name, identity in self.judge.identities.items()}

    def settings_of(self, cell: Cell) -> DrawSettings:
        """How the images of a cell are drawn: what is said of guidance goes for cells that are guided."""
        guided = self.settings.replace(guidance=cell.guidance)
        return guided.replace(interval=None, without=()) if cell.guidance == 1 else guided

    def guide_of(self, cell: Cell) -> str | None:
        """Name of the network that guides a cell; None for no guidance."""
        if cell.guidance == 1:
            return None
        if self.guide is None:
            raise ValueError(f"a guidance of {cell.guidance:g} needs a guide: a run, a network, or {SELF}")
        if self.guide_averages is not None:
            return str(self.guide_averages.path(Target(sigma_rel=cell.guide_length)))
        return self.guide

    def drawn_as(self, cell: Cell) -> Cell:
        """The cell without guidance in the place of one that is guided by its own network, whose images it has.

        That is the same file, or where both are there one of the same contents.
        """
        if (named := self.guide_of(cell)) in (None, SELF):
            return cell
        main, guide = self.main.path(cell.target()), _located(str(named))
        if main != guide and not (main.is_file() and guide.is_file() and _sha256(main) == _sha256(guide)):
            return cell
        return replace(cell, guidance=1.0, guide_length=None)

    def release(self) -> None:
        """Let go of the networks that were opened last, which are kept for cells that have one in common."""
        self._open.cache_clear()

    def _network(self, name: str) -> Network:
        return self._open(name, self.world.device, self.settings)

    def evaluate(
        self, cell: Cell, seeds: range, on_images: Callable[[float], None] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Rows of the table by name of the metric: from it where they are there, else measured and added.

        Raises:
            NoFigureError: if a metric is not finite; the others are in the table.
        """
        keys, known = self.keys(cell, seeds), self.table.rows()
        if not all(key in known for key in keys.values()):
            found = self._measure(cell, seeds, keys, on_images)
            rows = [row for row in found if math.isfinite(row["value"])]
            self.table.add(rows)
            if odd := [f"{row['metric']} is {row['value']}" for row in found if not math.isfinite(row["value"])]:
                raise NoFigureError(f"{' and '.join(odd)} at {_place(cell)}")
            known |= {row["key"]: row for row in rows}
        return {name: known[key] for name, key in keys.items()}

    def _measure(
        self, cell: Cell, seeds: range, keys: dict[str, str], on_images: Callable[[float], None] | None
    ) -> list[dict[str, Any]]:
        began = time.monotonic()
        images = self.images(cell, seeds, on_images)
        records = self.judge(images.batches(range(len(seeds))), images.source)
        about = {"cell": to_dict(self.drawn_as(cell)), **images.about}
        seconds = round(time.monotonic() - began, 3)
        return [
            {"key": key, "metric": name, "value": record.value, "seconds": seconds, **about, "record": to_dict(record)}
            for (name, key), record in zip(keys.items(), records, strict=True)
        ]


class NoFigureError(ValueError):
    """A metric of a cell is not finite."""


def _place(cell: Cell) -> str:
    """A cell in words."""
    said = {name: value for name, value in to_dict(cell).items() if value is not None}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())


def with_paper_tensors(bench: Sweep, config: SweepConfig) -> SweepConfig:
    """The sweep with the tensors of Appendix D.6 that the network has in the place of the pattern "D.6".

    Raises:
        ValueError: if it has none of them.
    """
    if PAPER not in config.patterns:
        return config
    named = paper_tensors(list_snapshots(bench.run)[-1].entries)
    if not named:
        raise ValueError(f"the network of {bench.run} has none of the tensors of Appendix D.6: give patterns of names")
    patterns = [name for pattern in config.patterns for name in (named if pattern == PAPER else (pattern,))]
    return replace(config, patterns=tuple(patterns))


def check(bench: Sweep, config: SweepConfig) -> None:
    """Raise `ValueError` if cells are guided and nothing guides, each is guided by its own network, as far as they are
    there, or what is said of guidance has no cell to go for.
    """
    guided = any(weight != 1 for weight in config.guidance)
    if guided and bench.guide is None:
        raise ValueError("weights of guidance other than 1 need a guide: a run, a network, or self")
    if config.guide_lengths is not None and not bench.tied:
        raise ValueError("lengths of the guide need a guide that is the folder of a run")
    said = {"guide": bench.guide, "interval": bench.settings.interval, "without": bench.settings.without}
    if not guided and (idle := " and ".join(f"--{name}" for name, value in said.items() if value)):
        raise ValueError(
            f"{idle} without guidance, as all weights are 1: name others, as in --guidance 1,1.5,2, or leave {idle} out"
        )
    _check_guides(bench, config)


def _check_guides(bench: Sweep, config: SweepConfig) -> None:
    guided = [cell for cell in config.cells(tied=bench.tied) if cell.guidance != 1]
    if guided and all(bench.drawn_as(cell).guidance == 1 for cell in guided):
        raise ValueError(
            f"the guide {bench.guide} is the network of every cell that it is to guide, which leaves it unguided: name "
            f"another one, or --guide {SELF} for the network without its label, or other averages of it "
            "(--guide-lengths, --guide-nimg)"
        )


def remaining(
    bench: Sweep, config: SweepConfig, *, on_bytes: Callable[[int, int], None] | None = None
) -> list[tuple[Cell, range]]:
    """What is left to evaluate, with all averages reconstructed by the first process.

    Args:
        bench: what is swept, and by what it is judged.
        config: the cells.
        on_bytes: called with (bytes read, bytes in all) in the first process, while averages are reconstructed.

    Returns:
        Cells with their seeds, in every process.

    Raises:
        ValueError: as `check`, or if a length is unreachable.
    """
    check(bench, config)
    work = [(cell, config.seeds(k)) for cell in config.cells(tied=bench.tied) for k in range(config.repeat)]

    def left() -> list[tuple[Cell, range]]:
        bench.reconstruct([cell for cell, _ in work], on_bytes)
        _check_guides(bench, config)  # now that the networks are there
        known, once = bench.table.rows(), dict[tuple[str, ...], tuple[Cell, range]]()
        for cell, seeds in work:
            keys = tuple(bench.keys(cell, seeds).values())
            if not all(key in known for key in keys):
                once.setdefault(keys, (cell, seeds))
        return list(once.values())

    return bench.world.on_main(left)


def sweep(
    bench: Sweep,
    config: SweepConfig,
    *,
    on_bytes: Callable[[int, int], None] | None = None,
    on_images: Callable[[float, int], None] | None = None,
) -> list[CellResult]:
    """Evaluate all cells that are not in the table; interrupted, the next call goes on.

    Arguments and errors are those of `remaining`; `on_images` is called with (images drawn, images to draw), in the
    first process.

    Returns:
        A result per cell and metric, by metric first, in every process.

    Raises:
        NoFigureError: if a metric of some cells is not finite, when all others are in the table.
    """
    world = bench.world
    left = remaining(bench, config, on_bytes=on_bytes)
    if left:
        bench.images(*left[0])  # what does not fit is refused before anything is drawn
    total = sum(len(seeds) for _, seeds in left)
    done, odd = 0, []
    for cell, seeds in world.share(left):
        progress = world.progress(on_images if world.main else None, total, before=done * world.size)
        try:
            bench.evaluate(cell, seeds, progress)
        except NoFigureError as error:
            odd.append(str(error))
        done += len(seeds)
    bench.release()
    if on_images is not None and world.main:
        on_images(total, total)
    if odd := [text for texts in world.gather(odd) for text in texts]:
        more = f"; and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise NoFigureError(
            f"{'; '.join(odd[:3])}{more}: leave out what has no figure; all others are kept in {bench.out}, and none "
            "is drawn again"
        )
    return world.on_main(lambda: list(_results(bench, config)))


def _results(bench: Sweep, config: SweepConfig) -> Iterator[CellResult]:
    known, seeds = bench.table.rows(), [config.seeds(k) for k in range(config.repeat)]
    keys = {cell: [bench.keys(cell, these) for these in seeds] for cell in config.cells(tied=bench.tied)}
    for metric in bench.judge.metrics:
        for cell, own in keys.items():
            rows = [known[key[metric.label]] for key in own]
            yield result_of(cell, metric, rows, config.images, bench.main.t)


def result_of(cell: Cell, metric: Metric, rows: Sequence[Mapping[str, Any]], images: int, nimg: float) -> CellResult:
    """What the rows of the repetitions of a cell say."""
    records = [row.get("record") for row in rows]
    found = [record.get("deviation") if isinstance(record, dict) else None for record in records]
    errors = [error for error in found if error is not None and is_number(error)]
    return CellResult(
        cell=cell,
        metric=metric.label,
        values=tuple(row["value"] for row in rows),
        images=images,
        higher=metric.higher,
        errors=tuple(errors) if len(errors) == len(rows) else (),
        nimg=nimg,
    )


_located = functools.cache(locate)  # which may ask the Hub


@functools.cache
def _sha256(path: Path) -> str:
    with Snapshot(path) as snapshot:
        return snapshot.sha256
