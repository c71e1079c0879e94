"""Options of the commands that draw with a network."""

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unitgain.cli.arguments import Unset
from unitgain.cli.words import options
from unitgain.console import note
from unitgain.draw.options import sample_options
from unitgain.draw.settings import DrawSettings
from unitgain.sample.samplers import SAMPLERS, Heun, Sampler
from unitgain.serial import suggest
from unitgain.text import one_line

if TYPE_CHECKING:
    import torch

    from unitgain.classes import Classes
    from unitgain.draw.networks import Network

SamplerName = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(SAMPLERS) + "}")]


@dataclass(frozen=True, kw_only=True)
class Sampled(ABC):
    """A command with a sampler, whose settings are options of the command."""

    sampler: SamplerName = Heun.name
    """heun takes 2 N - 1 evaluations of the network in N steps, stochastic_heun too; euler (DDIM) and dpmpp_2m N. Its
    own settings are options too: see --sampler NAME --help."""

    @classmethod
    def for_arguments(cls, args: Sequence[str]) -> type["Sampled"]:
        """The command with the options of the sampler that its arguments name.

        Raises:
            ValueError: if there is no such sampler.
        """
        name = next(iter(options(args).get("sampler", ())), Heun.name)
        if name not in SAMPLERS:
            raise ValueError(f"unknown sampler {name!r}; {suggest(name, SAMPLERS)}")
        defaults = cls.with_sampler(SAMPLERS[name]())
        own = [(field, type(value), dataclasses.field(default=value)) for field, value in defaults.items()]
        names = {"__doc__": cls.__doc__}
        return dataclasses.make_dataclass(cls.__name__, own, bases=(cls,), namespace=names, frozen=True, kw_only=True)

    @classmethod
    @abstractmethod
    def with_sampler(cls, sampler: Sampler) -> dict[str, Any]:
        """The field that has the sampler, by its name."""


@dataclass(frozen=True, kw_only=True)
class Batched:
    """How many images are drawn at a time."""

    batch: int = 64
    """Images in flight at a time in each process; does not change the images."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Sampled):
    """How networks are evaluated, and in which steps; for all commands that draw."""

    settings: DrawSettings = field(default_factory=DrawSettings)

    @classmethod
    def with_sampler(cls, sampler: Sampler) -> dict[str, Any]:
        """As `Sampled` says."""
        return {"settings": DrawSettings(sampler=sampler, dtype="auto")}

    def drawn_by(self, guide: str | None, guidance: float | None) -> list[str]:
        """Options of `unitgain sample` that draw as this command does, guided so; a weight of 1 that is given is among
        them, for runs and presets bring guides.
        """
        unguided = ["--guidance", "1"] if guide is None and guidance == 1 else []
        return unguided + sample_options(self.settings, guide, guidance)


@dataclass(frozen=True, kw_only=True)
class Drawing(Sampling):
    """What changes the images of a network."""

    classes: Annotated[Unset[str], tyro.conf.arg(name="class", metavar="CLASS")] = None
    """Class of all images, by name or number; or several, which the seeds get in turn: a list flags,food,3, a range
    with both ends 0-4, or all. Default: each seed draws its own."""

    guide: Unset[str] = None
    """What guides: a network as above, unconditional, smaller or less trained (the folder of a run is its newest
    average); or self, the network without its label, if it was trained to do without."""

    guidance: Unset[float] = None
    """Weight of guidance w: w times the network plus (1 - w) times the guide. 1 is none."""

    def networks(self, network: str, device: "torch.device") -> "tuple[Network, Network | None, DrawSettings]":
        """The network of this name, what guides it if that is another one, and the settings.

        Raises:
            ValueError: if the options do not go together.
        """
        from unitgain.denoiser import classes_of
        from unitgain.draw.networks import open_networks
        from unitgain.report.known import best_known, is_run, newest_average

        by, weight, drawing = self.guide, self.guidance, self.settings
        if is_run(Path(network)):
            choice = best_known(Path(network))
            if by is None and weight is None:
                by, weight = choice.guide, choice.guidance
                interval, without = drawing.interval or choice.interval, drawing.without or choice.without
                drawing = drawing.replace(interval=interval, without=without)
            network = str(choice.network)
            if os.environ.get("RANK", "0") == "0":
                as_known = by == choice.guide and weight in (choice.guidance, 1.0 if by is None else None)
                note(choice.why if as_known else f"{one_line(choice.network.name)}, {_guided(by, weight)}, as you say")
        if by is not None and is_run(Path(by)):
            by = str(newest_average(Path(by)))
        main, guide, settings = open_networks(network, device, drawing, guide=by, guidance=weight)
        known = classes_of(main.denoiser)
        return main, guide, settings.replace(label=self.label(known)).with_classes(known)

    def label(self, known: "Classes") -> tuple[int, ...] | None:
        """The classes that are to be drawn, of those that the network knows; None for one that each seed draws."""
        return None if self.classes is None else known.parse(self.classes)


def _guided(guide: str | None, guidance: float | None) -> str:
    """How a network is guided, in words."""
    return "not guided" if guide is None else f"guided by {guide}" + ("" if guidance is None else f", w = {guidance:g}")
