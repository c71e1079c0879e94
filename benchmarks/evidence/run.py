"""Run what is not there yet, the most important first: `python benchmarks/evidence/run.py --folder runs/evidence`.

Each result is a line of `results.jsonl` in the folder. A job that was cut is done again, a training run goes on from
its checkpoint; SIGTERM, Ctrl-C and `--hours` stop it. Several processes share the work: networks this small are trained
and drawn faster by a process per core, each with OMP_NUM_THREADS=1, than by one with all of them.
"""

import argparse
import dataclasses
import fcntl
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import judges
import torch
from cells import METRICS, Cell, Compare, Job, Picture, Train
from claims import CLAIMS, jobs
from scaled import Run, Scale
from sets import SETS, open_set
from torch import Tensor

from unitgain.bench.measure import machine
from unitgain.checkpoint.snapshot import SnapshotError, list_snapshots
from unitgain.checkpoint.state import checkpoint_nimg, list_checkpoints
from unitgain.data.dataset import ArrayDataset
from unitgain.data.images import grid
from unitgain.draw.decode import decoder
from unitgain.draw.images import draw_images
from unitgain.draw.networks import Network, guide_by, open_network
from unitgain.draw.rows import DataRows
from unitgain.draw.settings import DrawSettings
from unitgain.lock import FolderInUseError, hold
from unitgain.posthoc.targets import Length, Target
from unitgain.sweep.averages import Averages
from unitgain.train import TrainConfig, train
from unitgain.train.errors import TrainingError
from unitgain.train.rows import read_stats

COLUMNS = 8  # of pictures
STYLED_COLUMNS = 11  # where each is of another class
WAIT = 2.0  # seconds, where other processes have all jobs


class Results:
    """Lines of JSON by key, which several processes may add to; the last of a key counts.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All that are there; a line that was cut is none."""
        rows = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    @property
    def done(self) -> dict[str, dict[str, Any]]:
        """By key, those of finished jobs."""
        return {row["key"]: row for row in self.rows if not row.get("cut")}

    def add(self, row: dict[str, Any]) -> None:
        """Append a line, below one that was cut."""
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            file.write((b"" if file.read() in (b"", b"\n") else b"\n") + json.dumps(row).encode() + b"\n")


class Cut(Exception):
    """Training ended before its images were seen."""


class Workplace:
    """Carries jobs out in a folder.

    Args:
        folder: of the evidence.
        scale: of everything.
        deadline: `time.monotonic()` at which to stop; None for no end.
    """

    def __init__(self, folder: Path, scale: Scale, deadline: float | None = None) -> None:
        self.folder, self.scale, self.deadline = folder, scale, deadline
        self.judges = functools.cache(lambda name: judges.open_judges(name, folder))
        self.data = functools.cache(lambda name: open_set(name, folder / "data"))

    def run(self, job: Job) -> dict[str, Any]:
        """The result of a job, with what it took; a failure is a result too."""
        began, processor = time.monotonic(), time.process_time()
        work: Callable[[Any], dict[str, Any]] = {
            Train: self.train,
            Cell: self.measure,
            Compare: self.compare,
            Picture: self.picture,
        }[type(job)]
        try:
            found = work(job)
        except Cut:
            found = {"cut": True}
        except (ArithmeticError, ValueError, RuntimeError, OSError, SnapshotError, TrainingError) as error:
            found = {"failed": f"{type(error).__name__}: {error}"[:300]}
        took = {"seconds": time.monotonic() - began, "processor": time.process_time() - processor}
        return {"key": job.key, **about(job), **found, **{name: round(value, 1) for name, value in took.items()}}

    def path(self, run: Run) -> Path:
        """Folder of a training run."""
        return self.folder / "runs" / run.name

    def train(self, job: Train) -> dict[str, Any]:
        """Train up to the images of the job, or until a signal or the deadline."""
        run, path = job.run, self.path(job.run)
        dataset = self.data(run.data)[0]
        if not run.recipe.network.label_dim:
            dataset = dataclasses.replace(dataset, labels=None, classes=None)
        before = max((checkpoint_nimg(one) for one in list_checkpoints(path / "checkpoints")), default=0)
        if before >= job.nimg:  # trained further before
            return {"images": 0, "nimg": job.nimg}
        config = TrainConfig(
            recipe=run.recipe.replace(duration=job.nimg),
            data=run.data,
            seed=run.seed,
            snapshot_dtype=run.snapshot_dtype,
            magnitudes_every=run.magnitudes_every,
            checkpoint_every=max(self.scale.images // 64, run.recipe.snapshot_every),
        )
        left = None if self.deadline is None else max(self.deadline - time.monotonic(), 1.0)
        ended = train(config, path, dataset, resume=path.exists(), max_time=left, quiet=True, tensorboard=False)
        seen = [row for row in read_stats(path) if row.get("magnitudes")]
        magnitudes = [{"nimg": row["nimg"], "magnitudes": rounded(row["magnitudes"])} for row in seen]
        return {
            "images": ended.nimg - before,
            "nimg": ended.nimg,
            **({"magnitudes": magnitudes} if magnitudes else {}),
            **({} if ended.finished else {"cut": True}),
        }

    def need(self, run: Run, nimg: int) -> None:
        """Train a run anew of which only results are left; of others nothing is left to do."""
        if self.train(Train(run, nimg)).get("cut"):
            raise Cut

    def average(self, run: Run, nimg: int, target: Target) -> Path:
        """The file of an average, made where it is not there."""
        self.need(run, nimg)
        averages = Averages(self.path(run), self.path(run) / "averages", float(nimg))
        averages.make([target])
        return averages.path(target)

    def networks(self, cell: Cell) -> tuple[Network, Network | None]:
        """The network of a cell, and what guides it."""
        target = Target(sigma_rel=cell.length)
        if cell.pattern:
            overrides = {cell.pattern: Length(sigma_rel=cell.pattern_length)}
            target = Target(sigma_rel=cell.length, overrides=overrides)
        main = open_network(str(self.average(cell.run, cell.nimg, target)))
        if cell.guide is None:
            return main, None
        path = self.average(cell.guide, cell.guide_nimg, Target(sigma_rel=cell.guide_length))
        return main, open_network(str(path))

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Draw the images of a cell, and measure them."""
        names = judges.NAMES if cell.first_seed else METRICS
        return {"values": self.values(*self.networks(cell), cell, names)}

    def values(self, main: Network, guide: Network | None, cell: Cell, names: tuple[str, ...]) -> dict[str, float]:
        """Values by name, accuracy among them where the network has classes."""
        settings = (self.scale.heun if cell.heun else self.scale.sampling).replace(guidance=cell.guidance)
        settings = self.told(cell.run.data, settings)
        decode = decoder(main.encoder, main.denoiser.spec.channels)
        judge, right = self.judges(cell.run.data), []
        seeds = range(cell.first_seed, cell.first_seed + cell.images)

        def batches() -> Iterator[Tensor]:
            for _, labels, pixels in draw_images(guide_by(main, guide, settings), decode, seeds, settings, batch=256):
                if labels is not None:
                    right.append(judge.named(pixels) == labels)
                yield pixels

        values = judge(batches(), names)
        return {**values, "accuracy": torch.cat(right).float().mean().item()} if right else values

    def told(self, name: str, settings: DrawSettings) -> DrawSettings:
        """Settings that ask for the test images of a set in turn, where networks are told more than a class."""
        test = self.data(name)[1]
        return settings.replace(conditions=DataRows(test)) if test.condition_shapes else settings

    def compare(self, job: Compare) -> dict[str, Any]:
        """How far a reconstructed average is from the tracked one, in weights and in what it draws."""
        reconstructed = str(self.average(job.run, job.nimg, Target(sigma_rel=job.length)))
        self.need(job.tracked, job.nimg)
        wanted = f"{job.nimg:010d}-{job.length:.3f}"
        (tracked,) = [one.path for one in list_snapshots(self.path(job.tracked)) if one.path.stem == wanted]
        ours, theirs = (weights_of(path) for path in (reconstructed, tracked))
        cell = Cell(job.run, job.nimg, job.length, job.images)
        values = [self.values(open_network(str(path)), None, cell, METRICS) for path in (reconstructed, tracked)]
        difference = float((ours - theirs).norm() / theirs.norm())
        return {"difference": difference, "reconstructed": values[0], "tracked": values[1]}

    def picture(self, job: Picture) -> dict[str, Any]:
        """Draw samples, a row for each class, or what each test image is; below them what may be compared."""
        settings = self.told(job.run.data, self.scale.picture_sampling.replace(guidance=job.guidance))
        network, *guides = (
            open_network(str(self.average(job.run, nimg, Target(sigma_rel=job.length))), settings=settings)
            for nimg in (job.nimg, job.guide_nimg)
            if nimg
        )
        drawing = guide_by(network, guides[0] if guides else None, settings)
        (train_set, test), about_set = self.data(job.run.data), SETS[job.run.data]
        columns = STYLED_COLUMNS if about_set.styled else COLUMNS
        labels = None if about_set.styled else [label for label in range(train_set.label_dim) for _ in range(columns)]
        seeds = range(len(test) if labels is None else len(labels))
        drawn = draw_images(drawing, train_set.encoder.decode, seeds, settings, label=labels)
        pixels = torch.cat([images for _, _, images in drawn])
        below = [test.images] if about_set.styled else []
        below += [nearest(pixels, train_set)] if about_set.channels == 3 else []
        rows = zip(*(images.split(columns) for images in (pixels, *below)), strict=True)
        path = self.folder / "pictures" / f"{job.run.data}-{job.nimg}.png"
        path.parent.mkdir(exist_ok=True)
        grid(torch.cat([padded(part, columns) for row in rows for part in row]), columns).save(path)
        named = {"real": self.judges(job.run.data).accuracy, "kept": len(test)} if about_set.styled else {}
        return {"file": path.name, "precision": job.run.recipe.precision, **named}


def padded(images: Tensor, count: int) -> Tensor:
    """So many pictures, white ones behind those that are there."""
    return torch.cat([images, images.new_full((count - len(images), *images.shape[1:]), 255)])


def weights_of(snapshot: Path | str) -> Tensor:
    """All weights of a snapshot behind one another, float64."""
    state = open_network(str(snapshot), settings=DrawSettings(exact=True)).denoiser.state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def rounded(magnitudes: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """To four digits: they are most of what is kept."""
    return {part: {name: float(f"{value:.4g}") for name, value in row.items()} for part, row in magnitudes.items()}


def nearest(pixels: Tensor, dataset: ArrayDataset) -> Tensor:
    """Of each picture the training image with the least squared difference."""
    distances = torch.cdist(pixels.flatten(1).float(), dataset.images.flatten(1).float())
    return dataset.images[distances.argmin(1)]


def about(job: Job) -> dict[str, Any]:
    """What a job is, for those who read the file."""
    fields: dict[str, Any] = {"kind": type(job).__name__.lower()}
    for name in (field.name for field in dataclasses.fields(job)):
        value = getattr(job, name)
        fields[name] = value.name if isinstance(value, Run) else value
    return fields


def is_ready(job: Job, done: Mapping[str, Any]) -> bool:
    """Whether all that a job draws with is trained."""
    if isinstance(job, Cell):
        needed = [Train(job.run, job.nimg)] + ([Train(job.guide, job.guide_nimg)] if job.guide else [])
    elif isinstance(job, Compare):
        needed = [Train(job.run, job.nimg), Train(job.tracked, job.nimg)]
    else:
        needed = []
    return all(train.key in done for train in needed)


def measure_floor(workplace: Workplace, results: Results) -> None:
    """Make the judges, and measure the best that there is, once."""
    scale = workplace.scale
    judge, (real, test) = workplace.judges(scale.data), workplace.data(scale.data)
    about_all = {"kind": "floor", "classifier": judge.accuracy}
    for key, images in ((f"floor {scale.data} sweep", scale.sweep), (f"floor {scale.data}", scale.score)):
        count = min(images, len(test))
        values = judges.floor(judge, real, count, judges.NAMES)
        results.add({"key": key, **about_all, "images": count, "values": values})


def work(folder: Path, scale: Scale, only: str | None = None, hours: float | None = None) -> None:
    """Do what is not done yet, until it is, or the time is over, or training was stopped; others may do so beside it.

    A training run, with all that is drawn with it, is one process's at a time.
    """
    deadline = None if hours is None else time.monotonic() + hours * 3600
    results, workplace = Results(folder / "results.jsonl"), Workplace(folder, scale, deadline)
    floor = f"floor {scale.data}"
    with hold(folder, wait=True):
        here = machine("cpu")
        if here not in [row.get("machine") for row in results.rows]:
            results.add({"key": f"machine {here['processor']}", "kind": "machine", "machine": here})
        if floor not in results.done:
            measure_floor(workplace, results)
    while deadline is None or time.monotonic() < deadline:
        done = results.done
        open_jobs = [job for job in jobs(scale, done, only) if job.key not in done]
        if not open_jobs:
            print("all that is declared is done")
            return
        row = first_free([job for job in open_jobs if is_ready(job, done)], workplace, results)
        if row is None:
            time.sleep(WAIT)  # others have what there is
        elif row.get("cut"):
            return


def first_free(ready: Iterable[Job], workplace: Workplace, results: Results) -> dict[str, Any] | None:
    """The result of the first job whose run no other process has; None where there is none."""
    taken = set()
    for job in ready:
        name = job.run.name
        if name in taken:
            continue
        try:
            with hold(workplace.folder / "locks" / name):
                if job.key in results.done:  # in the meantime
                    continue
                print(f"{time.strftime('%H:%M:%S')} {job.key}", flush=True)
                row = workplace.run(job)
                results.add(row)
        except FolderInUseError:
            taken.add(name)
            continue
        told = row.get("values") or row.get("failed") or row.get("nimg")
        print(f"  {told} in {row['seconds']:.0f} s", flush=True)
        return row
    return None


def stop(_number: int, _frame: object) -> None:
    """End at once, outside of training, which has handlers of its own: what is not finished is done again."""
    raise SystemExit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--only", choices=CLAIMS)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--list", action="store_true", help="show the jobs that are known so far, and what is done")
    args = parser.parse_args()
    if args.list:
        done = Results(args.folder / "results.jsonl").done
        for job in jobs(Scale(), done, args.only):
            print("done" if job.key in done else "    ", job.key)
        return
    signal.signal(signal.SIGTERM, stop)
    work(args.folder, Scale(), args.only, args.hours)


if __name__ == "__main__":
    sys.exit(main())
