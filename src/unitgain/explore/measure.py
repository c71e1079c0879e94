"""What sweeps and searches have measured of a run, and one more cell in the same table."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unitgain.draw.settings import DrawSettings
from unitgain.evaluate.judge import Judge
from unitgain.explore.session import Session
from unitgain.explore.sources import Run
from unitgain.explore.views import MOST_STEPS, View
from unitgain.metrics.metric import METRICS, higher_is_better
from unitgain.parallel import World
from unitgain.sample.samplers import SAMPLERS
from unitgain.serial import from_dict
from unitgain.sweep.cells import Cell
from unitgain.sweep.run import Sweep
from unitgain.sweep.table import Table, reference_of
from unitgain.text import printable
from unitgain.train.run import load_config
from unitgain.trust import is_number

MOST_IMAGES = 50_000
METRIC = "fd_pixels"


def measured(session: Session) -> list[dict[str, Any]]:
    """The finished cells of a run, in the order in which they were measured; rows that are no cells are left out.

    Returns:
        Of each, as JSON: `length` and `guidance`; `guide`, by its name in `session.guides`, and `guide_length`, None
        where there is none; `metric`, one of the library's, `value`, whether `higher` is better, and `images` that were
        drawn for it; `against`, the name of the reference, and `reference`, the same for equal images;
        `nimg` and `guide_nimg`, where the averages end, None where that is not known; `how`, what else of a view its
        images depend on, as far as it is known.
    """
    if not isinstance(session.source, Run):
        return []
    rows = Table(session.source.folder / "sweep").rows().values()
    return [cell for row in rows if (cell := _read(session, row)) is not None]


def measure(
    session: Session,
    view: View,
    *,
    metric: str = METRIC,
    images: int = 448,
    reference: str | None = None,
    on_images: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure a view as `unitgain sweep` measures a cell, and add it to the table of the run; what is there is not done
    again.

    Args:
        session: of the run.
        view: what is measured; its seeds do not count, those of a sweep do.
        metric: one of the library's, by name.
        images: to draw, 2 to 50,000.
        reference: what images are compared with, a name as for `Judge.open`; None for the data of the run.
        on_images: called with the number of images drawn; what it raises ends the work.

    Returns:
        The cells of the run, that one included.

    Raises:
        ValueError: if there is no run, no such metric, or no reference.
        FileNotFoundError, ImportError, OSError: if what the metric needs is not there.
    """
    if not isinstance(session.source, Run):
        raise ValueError(f"{session.source.name} is one network: a cell belongs to a run")
    if metric not in METRICS:
        raise ValueError(f"unknown metric {printable(metric)[:100]!r}; known: {', '.join(METRICS)}")
    if not 2 <= images <= MOST_IMAGES:
        raise ValueError(f"images = {images}: 2 to {MOST_IMAGES:,}")
    view = session.check(view)
    opened = Judge.open([metric], reference or load_config(session.source.folder).data)
    judge = replace(opened, world=World(device=session.device), errors=True)
    assert view.average.length is not None
    guide = None if view.guide is None else session.guides[view.guide]
    own = view.guide_average.length if isinstance(guide, Run) else None
    cell = Cell(length=view.average.length, guidance=view.settings.guidance, guide_length=own)
    bench = Sweep(
        session.source.folder,
        judge,
        session.source.folder / "sweep",
        guide=view.guide,
        settings=view.settings,
        t=view.average.t,
        guide_t=view.guide_average.t,
        world=World(device=session.device),
    )
    bench.reconstruct([cell])
    bench.evaluate(cell, range(images), on_images)
    return measured(session)


def _read(session: Session, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row of the table as a cell, if it is one of a metric that this library knows."""
    parts = (row.get(name) for name in ("record", "network", "guide"))
    record, network, guide = (part if isinstance(part, dict) else {} for part in parts)
    against = found if isinstance(found := record.get("reference"), dict) else {}
    metric, images, nimg = row.get("metric"), record.get("images"), network.get("nimg")
    higher = higher_is_better(metric) if isinstance(metric, str) else None
    try:
        cell = from_dict(Cell, row.get("cell"))
    except ValueError:
        return None
    numbers = [cell.length, cell.guidance, *([] if cell.guide_length is None else [cell.guide_length])]
    if higher is None or type(images) is not int or cell.pattern is not None or not all(map(is_number, numbers)):
        return None
    known: list[str | None] = [name for name in session.guides if name == guide.get("name")]
    if not known and cell.guidance != 1 and cell.guide_length is not None:  # an average in a folder named for its run
        run = Path(str(guide.get("name"))).parent.name.rpartition("-")[0]
        known = [name for name, source in session.guides.items() if isinstance(source, Run) and source.title == run]
    return {
        "length": cell.length,
        "guidance": cell.guidance,
        "guide": next(iter(known), None),
        "guide_length": cell.guide_length,
        "metric": metric,
        "value": row["value"],
        "images": images,
        "against": printable(against["name"])[:100] if isinstance(against.get("name"), str) else "",
        "reference": printable(reference_of(record))[:100],
        "nimg": nimg if is_number(nimg) else None,
        "guide_nimg": guide["nimg"] if is_number(guide.get("nimg")) else None,
        "higher": higher,
        "how": _how(row.get("settings")),
    }


def _how(settings: Any) -> dict[str, Any]:
    """Sampler, steps, interval, schedule, and what the network did without, as a view has them in JSON; nothing where
    they are not known.
    """
    try:
        sampler = {name: settings[name] for name in SAMPLERS[settings["sampler"]]().to_json()}
        known = {name: settings[name] for name in ("steps", "interval", "sigma_min", "sigma_max", "rho")}
        known["without"] = settings.get("without", [])
        drawn = from_dict(DrawSettings, {**known, "sampler": sampler})
    except (ValueError, TypeError, KeyError):
        return {}
    return {**known, "sampler": sampler} if drawn.steps <= MOST_STEPS else {}
