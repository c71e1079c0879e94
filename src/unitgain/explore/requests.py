"""Views as JSON, read with suspicion: they come from a browser, or from anybody who can reach the port."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from unitgain.classes import Class
from unitgain.draw.settings import DrawSettings
from unitgain.explore.views import MOST_SEEDS, Average, View
from unitgain.sample.samplers import SAMPLERS, Sampler
from unitgain.serial import suggest
from unitgain.text import brief
from unitgain.trust import is_number

NUMBERS = ("guidance", "sigma_min", "sigma_max", "rho")
FIELDS = ("average", "guide", "guide_average", "seeds", "label", "interval", "steps", "sampler", *NUMBERS)
LONGEST = 4096  # characters of a name


def view_to_json(view: View) -> dict[str, Any]:
    """A view as a page has it: everything that can be chosen there."""
    settings = view.settings
    return {
        "average": dataclasses.asdict(view.average),
        "guide": view.guide,
        "guide_average": dataclasses.asdict(view.guide_average),
        "seeds": list(view.seeds),
        "label": list(settings.label) if isinstance(settings.label, tuple) else settings.label,
        "interval": None if settings.interval is None else list(settings.interval),
        "steps": settings.steps,
        "sampler": settings.sampler.record(),
        **{name: getattr(settings, name) for name in NUMBERS},
    }


def view_from_json(data: object, settings: DrawSettings) -> View:
    """Inverse of `view_to_json`.

    Args:
        data: what was sent; fields that are missing are as in `settings`, or as a view has them.
        settings: precision, and all else that a page does not choose.

    Raises:
        ValueError: if a field is unknown, of another kind, or out of range.
    """
    fields = known(data, FIELDS, "a view")
    changes: dict[str, Any] = {name: number(fields[name], name) for name in NUMBERS if name in fields}
    if "steps" in fields:
        changes["steps"] = whole(fields["steps"], "steps")
    if "sampler" in fields:
        changes["sampler"] = _sampler(fields["sampler"])
    if "label" in fields:
        changes["label"] = _label(fields["label"])
    if fields.get("interval") is not None:
        low, high = numbers(fields["interval"], "interval", 2)
        if not 0 <= low < high:
            raise ValueError(f"interval = {low:g}, {high:g}: noise levels with 0 <= low < high")
        changes["interval"] = (low, high)
    guide = fields.get("guide")
    more = {} if "seeds" not in fields else {"seeds": _seeds(fields["seeds"])}
    return View(
        average=_average(fields.get("average"), "average"),
        guide=None if guide is None else text(guide, "guide"),
        guide_average=_average(fields.get("guide_average"), "guide_average"),
        settings=settings.replace(**changes),
        **more,
    )


def known(data: object, names: Sequence[str], what: str) -> Mapping[str, Any]:
    """An object with some of these fields and no others, or `ValueError`."""
    if not isinstance(data, dict):
        raise ValueError(f"{what} is an object with named fields, not {brief(data)}")
    for name in data:
        if name not in names:
            raise ValueError(f"{what} has no field {brief(name)}; {suggest(str(name)[:100], names)}")
    return data


def number(value: object, name: str) -> float:
    """A finite number, or `ValueError`."""
    if not is_number(value):
        raise ValueError(f"{name} = {brief(value)}: expected a finite number")
    return float(value)  # type: ignore[arg-type]


def numbers(value: object, name: str, count: int) -> tuple[float, ...]:
    """So many finite numbers, or `ValueError`."""
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{name} = {brief(value)}: expected {count} numbers")
    return tuple(number(one, name) for one in value)


def whole(value: object, name: str) -> int:
    """A whole number, or `ValueError`."""
    if type(value) is not int or abs(value) >= 2**53:
        raise ValueError(f"{name} = {brief(value)}: expected a whole number")
    return value


def text(value: object, name: str) -> str:
    """Text that is not too long to be a name, or `ValueError`."""
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"{name} = {brief(value)}: expected a name")
    return value


def _average(value: object, name: str) -> Average:
    fields = known({} if value is None else value, ("length", "t"), name)
    return Average(**{key: None if one is None else number(one, f"{name}.{key}") for key, one in fields.items()})


def _seeds(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_SEEDS:
        raise ValueError(f"seeds = {brief(value)}: expected a list of at most {MOST_SEEDS} whole numbers")
    return tuple(whole(one, "seeds") for one in value)


def _label(value: object) -> Class | tuple[Class, ...] | None:
    if isinstance(value, list):
        if len(value) > MOST_SEEDS:
            raise ValueError(f"label has {len(value)} classes: at most {MOST_SEEDS}")
        return tuple(_class(one) for one in value) or None
    return None if value is None else _class(value)


def _class(value: object) -> Class:
    return text(value, "label") if isinstance(value, str) else whole(value, "label")


def _sampler(value: object) -> Sampler:
    fields = dict(value) if isinstance(value, dict) else {"sampler": value}
    name = text(fields.pop("sampler", None), "sampler")
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {brief(name)}; {suggest(name[:100], SAMPLERS)}")
    kind = SAMPLERS[name]
    own = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{key: number(one, key) for key, one in known(fields, own, f"sampler {name}").items()})
