"""Settings of drawing as options of the command line. Imports no torch."""

import dataclasses
from typing import Any

from unitgain.draw.settings import DrawSettings


def sample_options(settings: DrawSettings, guide: str | None = None, guidance: float | None = None) -> list[str]:
    """Options of `unitgain sample` that draw with these settings, but for the class.

    Args:
        settings: how; their own weight of guidance does not count.
        guide: what guides; None for no guidance.
        guidance: its weight; None or 1 for no guidance.
    """
    default = DrawSettings(dtype="auto")
    words = ["--sampler", settings.sampler.name] if settings.sampler != default.sampler else []
    words += options_of(settings.sampler, type(settings.sampler)())
    guided = guide is not None and guidance not in (None, 1)
    words += ["--guide", str(guide), "--guidance", number(guidance or 1)] if guided else []
    own = dataclasses.replace(settings, sampler=default.sampler, guidance=default.guidance, label=default.label)
    return words + options_of(own if guided else own.replace(interval=None, without=()), default)


def number(value: float) -> str:
    """A number in as few characters as give the same number back."""
    return short if float(short := f"{value:g}") == value else repr(float(value))


def options_of(values: Any, defaults: Any) -> list[str]:
    """The fields of settings that are not what they are by default, as options of the command line."""
    words: list[str] = []
    for one in dataclasses.fields(values):
        value = getattr(values, one.name)
        if value != getattr(defaults, one.name):
            words.append(f"--{one.name.replace('_', '-')}")
            words += [] if value is True else map(str, value) if isinstance(value, tuple) else [str(value)]
    return words
