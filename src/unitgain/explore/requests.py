"""Views as JSON, read with suspicion: they come from a browser, or from anybody who can reach the port."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from unitgain.classes import Class
from unitgain.draw.networks import SELF
from unitgain.draw.settings import DrawSettings
from unitgain.explore.measure import METRIC
from unitgain.explore.views import Average, View
from unitgain.sample.samplers import Sampler
from unitgain.serial import from_dict, to_dict

OWN = ("average", "guide", "guide_average", "seeds")  # of a view; all else that is chosen are settings


@dataclass(frozen=True, kw_only=True)
class Choices:
    """All that a page chooses: a view, with those of its settings that are on the page; never names of files."""

    average: Average
    guide: str | None
    guide_average: Average
    seeds: tuple[int, ...]
    label: Class | tuple[Class, ...] | None
    interval: tuple[float, float] | None
    steps: int
    sampler: Sampler
    guidance: float
    sigma_min: float
    sigma_max: float
    rho: float
    without: tuple[str, ...] | None  # of a network that guides itself; None for what the session says


def view_to_json(view: View) -> dict[str, Any]:
    """A view as a page has it: everything that can be chosen there."""
    names = [one.name for one in fields(Choices)]
    values = {name: getattr(view if name in OWN else view.settings, name) for name in names}
    values["without"] = values["without"] or None
    return to_dict(Choices(**values))


def view_from_json(data: Any, settings: DrawSettings) -> View:
    """Inverse of `view_to_json`.

    Args:
        data: what was sent; fields that are missing are as in `settings`, or as a view has them.
        settings: precision, and all else that a page does not choose.

    Raises:
        ValueError: if a field is unknown, of another kind, or out of range.
    """
    whole = {**view_to_json(View(settings=settings)), **data} if isinstance(data, Mapping) else data
    choices = from_dict(Choices, whole, "view")
    values = {one.name: getattr(choices, one.name) for one in fields(Choices)}
    own = {name: values.pop(name) for name in OWN}
    if choices.without is None:
        values["without"] = settings.without if choices.guide == SELF else ()
    return View(**own, settings=settings.replace(**values))


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Averages of all lengths that end at a time; those of the guide of this name, or of the run.

    Raises:
        ValueError: if no average ends then.
    """

    guide: str | None = None
    t: float | None = None

    def __post_init__(self) -> None:
        Average(t=self.t)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is to be measured: a view as it was sent, by which metric, of how many images."""

    view: Mapping[str, Any]
    metric: str = METRIC
    images: int = 448
