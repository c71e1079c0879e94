"""Which network of a run to draw with: the best that is known of it, or its newest average."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.draw.networks import SELF
from unitgain.ema import file_name
from unitgain.hub import MODEL
from unitgain.metrics.metric import METRICS, higher_is_better
from unitgain.sweep.table import Table, reference_of
from unitgain.text import one_line
from unitgain.train.rows import read_stats
from unitgain.trust import is_number


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A network, how it is guided, and why it was chosen.

    Attributes:
        network: path of a snapshot.
        guide: path of another one, or "self"; None for no guidance.
        guidance: weight of guidance; None for no guidance.
        interval: noise levels that are guided; None for all.
        without: what a network that guides itself does without; empty for all that training left out.
        why: in words.
        value: what was measured of it; None where nothing was.
        higher: whether higher is better.
    """

    network: Path
    guide: str | None = None
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    without: tuple[str, ...] = ()
    why: str = ""
    value: float | None = None
    higher: bool = False


def is_run(folder: Path) -> bool:
    """Whether a folder holds snapshots to choose from: that of a run, or one of snapshots, not a single model's."""
    if not folder.is_dir() or (folder / MODEL).exists():
        return False
    inner = folder / "snapshots"
    return next((inner if inner.is_dir() else folder).glob("[!.]*.safetensors"), None) is not None


def best_known(run: Path) -> Choice:
    """The best of what sweeps and searches have measured of a run, else of its evaluations; else its newest average.

    Values are compared only where they are of one metric, of as many images and against the same reference, by its
    images where those are known: of the groups that there are the one with the most images counts, of metrics the
    first in the order of `METRICS`, whatever their detector. Tables may be anybody's: they name averages below
    `RUN/sweep/averages`, or files that are snapshots.

    Args:
        run: its folder, or one of snapshots.

    Raises:
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one cannot be opened.
    """
    for measured, where in ((_swept(run), run / "sweep"), (_evaluated(run), "evaluations of the run")):
        if measured:
            metric, choices = _comparable(measured)
            chosen = (max if choices[0].higher else min)(choices, key=lambda one: one.value or 0.0)
            among = f"the best of {len(choices)} in {one_line(where)}: {one_line(metric)} {chosen.value:.4g}"
            return replace(chosen, why=f"{_named(chosen)}, {among}")
    newest = newest_average(run)
    return Choice(network=newest, why=f"{one_line(newest.name)}, the newest average; nothing was measured")


def newest_average(run: Path) -> Path:
    """The longest average of the newest ones that a run has stored; raw weights where it has no other.

    Raises:
        FileNotFoundError: if there are no snapshots.
        SnapshotError: if one cannot be opened.
    """
    stored = list_snapshots(run)
    newest = [one for one in stored if one.t == stored[-1].t]
    return max(newest, key=lambda one: (one.kind != "raw", one.described.get("sigma_rel") or 0.0)).path


Key = tuple[str, int, str]  # of what may be compared: metric, images, and what identifies the reference


def _comparable(measured: Mapping[Key, Sequence[Choice]]) -> tuple[str, Sequence[Choice]]:
    """The group of values that counts, and its metric."""
    order = list(METRICS)

    def rank(key: Key) -> tuple[int, int, int]:
        label, images, _ = key
        name = label.partition("@")[0]
        return (-order.index(name) if name in order else -len(order), images, len(measured[key]))

    key = max(measured, key=rank)
    return key[0], measured[key]


def _swept(run: Path) -> dict[Key, list[Choice]]:
    """What a sweep or a search has measured, as far as its averages are still there."""
    found: dict[Key, list[Choice]] = {}
    for row in Table(run / "sweep").rows().values():
        record, settings = _object(row.get("record")), _object(row.get("settings"))
        metric, images, weight = row.get("metric"), record.get("images"), settings.get("guidance")
        path = average_of(run, _object(row.get("network")).get("name"))
        if path is None or not isinstance(metric, str) or type(images) is not int:
            continue
        choice = Choice(network=path, value=row["value"], higher=record.get("higher") is True)
        if row.get("guide") is not None:
            guide = _guide(run, _object(row["guide"]).get("name"))
            if guide is None or not is_number(weight):
                continue
            interval, without = _interval(settings.get("interval")), _names(settings.get("without"))
            choice = replace(choice, guide=guide, guidance=weight, interval=interval, without=without)
        found.setdefault((metric, images, reference_of(record)), []).append(choice)
    return found


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _interval(value: object) -> tuple[float, float] | None:
    return (value[0], value[1]) if isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) else None


def _names(value: object) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else ()


def _evaluated(run: Path) -> dict[Key, list[Choice]]:
    """What was measured in training of averages that are still there."""
    found: dict[Key, list[Choice]] = {}
    for row in read_stats(run):
        about = _object(row.get("evaluation"))
        length, images = about.get("ema"), about.get("images")
        if "metrics" not in row or not is_number(length) or type(images) is not int:
            continue
        path = run / "snapshots" / file_name(row["nimg"], {"kind": "power", "sigma_rel": length})
        if not path.is_file():
            continue
        for metric, value, higher in _values(row["metrics"]):
            choice = Choice(network=path, value=value, higher=higher)
            found.setdefault((metric, images, str(about.get("reference"))), []).append(choice)
    return found


def _values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float, bool]]:
    """Name, value and whether higher is better, of metrics that this library knows."""
    for name, value in metrics.items():
        higher = higher_is_better(name)
        if higher is not None and is_number(value):
            yield name, value, higher


def average_of(run: Path, name: object) -> Path | None:
    """An average that a sweep of this run has made, wherever the run lies now; None if it is not there."""
    parts = Path(name).parts[-2:] if isinstance(name, str) and "\0" not in name else ()
    path = (run / "sweep" / "averages").joinpath(*parts)
    below = len(parts) == 2 and ".." not in parts and not Path(*parts).is_absolute()
    return path if below and path.suffix == ".safetensors" and path.is_file() else None


def _guide(run: Path, name: object) -> str | None:
    """What guided a cell, if it is still there."""
    if name == SELF:
        return SELF
    if (average := average_of(run, name)) is not None:
        return str(average)
    path = Path(name) if isinstance(name, str) and "\0" not in name else None
    return str(path) if path is not None and path.suffix == ".safetensors" and path.is_file() else None


def _named(choice: Choice) -> str:
    guide = "" if choice.guide is None else f" guided by {one_line(Path(choice.guide).name)}, w = {choice.guidance:g}"
    return f"{one_line(choice.network.name)}{guide}"
