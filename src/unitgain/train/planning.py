"""A network and a recipe for some data on this machine, by the papers' rules and a short measurement."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch

from unitgain.analysis.counts import state_bytes
from unitgain.data.dataset import Dataset
from unitgain.data.encoder import ArrayEncoder
from unitgain.parallel import SharedError, World, processes
from unitgain.recipe import Recipe
from unitgain.room import free_memory
from unitgain.size import show_size
from unitgain.text import span
from unitgain.train.accumulation import MOST_BYTES, Fit, fitting, numbers, share_of, show_bytes
from unitgain.train.config import Device, Execution, TrainConfig
from unitgain.train.ladder import Candidate, Change, Ladder
from unitgain.train.warmup import images_per_second

HOURS = {"cpu": 0.75, "cuda": 24.0}  # that a run gets by default, at most: the data may carry less
TRAINING = 0.95  # part of the time that steps get: the rest is for snapshots, checkpoints and statistics
# A network is only taken where the run has an image for every eighth parameter. The digits' recipe has 0.11 (38,400 of
# 337,000), the papers' from 17 (XS) down to 0.6 (XXL); with fewer a smaller network that sees more of them is better.
IMAGES_PER_PARAMETER = 1 / 8
MEASURED = {"cpu": 32, "cuda": 256}  # images of a step that is measured, at most
Measure = Callable[[Recipe, int, torch.device], float]
Rate = Callable[[Recipe, int], float]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run for some data on this machine: `train(plan.config, folder, dataset, execution=plan.execution)`.

    Attributes:
        config: what is trained: an ordinary recipe, gradient accumulation, how pixels are normalized.
        execution: how it is carried out.
        images_per_second: as measured, of all processes together.
        memory: bytes that a step is estimated to take at its peak in each process, beside what that has.
        reasons: what was chosen and why, five lines.
    """

    config: TrainConfig
    execution: Execution
    images_per_second: float
    memory: int
    reasons: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        """Network, loss, optimizer, averages and duration."""
        return self.config.recipe

    @property
    def seconds(self) -> float:
        """That training is going to take."""
        return self.recipe.duration / self.images_per_second / TRAINING


def plan(
    dataset: Dataset,
    *,
    hours: float | None = None,
    device: Device = "auto",
    change: Change = lambda config: config,
    memory: int | None = None,
    measure: Measure = images_per_second,
) -> Plan:
    """Plan a run for these data on this machine.

    The network is one of the papers': EDM2 for latents, and for pixels on CPUs below a width of 64; EDM2+ for other
    pixels. Of the sizes that fit into memory it is the largest whose speed leaves the run an image for every eighth
    parameter, within the time. Speed is measured, with some steps of the sizes that come into question. The duration is
    what the time allows, but not more than the data carry: 1676 passes over them, as the papers make over ImageNet
    (`unitgain.train.rules.carried`). Batch, learning rate, t_ref, ramp-up and snapshots follow from duration and width:
    `unitgain.train.rules` states each rule with its source. Networks have the classes of the data, and their conditions
    as `unitgain.train.declare` says. Precision is bfloat16 where the machine multiplies it faster (on CPUs from a width
    of 32 on). Pixels are normalized as measured where their mean and standard deviation are far from the 0 and 0.5 that
    the noise levels presume. What does not fit into memory at once is accumulated.

    Under torchrun all processes call this together, and the first one decides for all; a process group that is there
    already is used. They measure at the same time, so that what they take from one another counts, but not the messages
    that they will exchange; their speeds are added up. The batch is that of all of them.

    Args:
        dataset: prepared data, or any others.
        hours: that the run may take; None for 0.75 on a CPU and 24 on a GPU.
        device: where it will train.
        change: made to each settings that are considered, so that what it fixes (a width, a batch, a duration) is
            heeded when the rest is chosen; calling it twice does the same as once.
        memory: bytes that a step may take in each process; None for nine tenths of what is free.
        measure: images per second of a recipe with steps of so many images on a device.

    Raises:
        ValueError: if `hours` is not positive, or no network fits into memory.
        SharedError: if speed could not be measured on some of several processes.
    """
    with processes(device) as world:
        room = min(world.gather(share_of(free_memory(world.device), world) if memory is None else memory))

        def rate(recipe: Recipe, images: int) -> float:
            here = world.together("measuring the speed", lambda: measure(recipe, images, world.device))
            return sum(world.gather(here))

        def lead() -> Plan:
            try:
                limit = HOURS[world.device.type] if hours is None else hours
                if not 0 < limit < math.inf:
                    raise ValueError(f"hours = {hours}: must be positive")
                planner = _Planner(dataset, world, limit, change, room, lambda *job: rate(*_next(world, job)))
                return planner.plan(device, hours is None)
            finally:
                _next(world, ())

        while not world.main and (job := _next(world, ())):
            with suppress(SharedError):  # the first process has it too, and shares it as what became of the plan
                rate(*job)
        return world.on_main(lead)


def _next(world: World, job: tuple[Recipe, int] | tuple[()]) -> Any:
    """What all processes measure next, as the first one says: a recipe and the images of a step; nothing at the end."""
    return world.broadcast(job)


class _Planner:
    def __init__(self, dataset: Dataset, world: World, hours: float, change: Change, room: int, measure: Rate) -> None:
        self.dataset, self.world, self.device, self.hours = dataset, world, world.device, hours
        self.room, self.measure = room, measure
        self.ladder = Ladder(dataset, world.device, change)
        self.carried = self.ladder.carried

    def plan(self, device: Device, by_default: bool) -> Plan:
        """The largest network that suits and fits, in the run that the time allows."""
        takes = 0
        for one in reversed(self.suitable()):
            images = min(self.carried, max(self.within(self.rate(one)), 1))
            config, _ = self.ladder.settings(one.draft.recipe.network, images)
            recipe, size = config.recipe, self.world.size
            fit = fitting(recipe, self.room, self.device, processes=size, microbatch=config.microbatch)
            if fit.microbatch is not None:
                if fit.microbatch != recipe.batch:
                    config = replace(config, microbatch=fit.microbatch)
                return Plan(
                    config=config,
                    execution=Execution(device=device),
                    images_per_second=one.rate,
                    memory=fit.bytes,
                    reasons=self.reasons(one, config, fit, by_default),
                )
            takes = fit.bytes
        raise ValueError(
            f"not even the smallest network fits into memory: a step of one image takes {show_bytes(takes)}, "
            f"{show_bytes(self.room)} may be taken. Prepare the data at a lower resolution (unitgain data prepare "
            "--resolution N)"
        )

    def suitable(self) -> list[Candidate]:
        """The candidates from the smallest, which is one in any case, to the largest that suits as measured."""
        sizes = self.ladder.candidates()
        last, low, high = sizes[0], 0, len(sizes) if self.suits(sizes[0]) else 1
        while high - low > 1:  # the one that the last speed foretells, or the next where that is not to suit
            speed = last.rate * last.work
            foretold = takewhile(lambda one: self.suits(one, speed / one.work), sizes[low + 1 : high])  # noqa: B023
            place = low + max(len(list(foretold)), 1)
            low, high = (place, high) if self.suits(sizes[place]) else (low, place)
            last = sizes[place] if sizes[place].rate else last
        return sizes[: low + 1]

    def rate(self, one: Candidate) -> float:
        """Images per second, measured once, in steps of far fewer images than what fits."""
        if not one.rate:
            recipe = one.draft.recipe
            share = recipe.batch // self.world.size
            most = min(MEASURED[self.device.type], share, self.room // (2 * MOST_BYTES * numbers(recipe.network)))
            one.rate = self.measure(recipe, 2 ** int(math.log2(max(most, 1))))
        return one.rate

    def within(self, rate: float) -> int:
        """Images that the time allows at so many per second."""
        return int(rate * TRAINING * 3600 * self.hours)

    def suits(self, one: Candidate, rate: float | None = None) -> bool:
        """Whether weights, gradients, Adam and averages fit, and the run is long enough; None for the measured rate."""
        if state_bytes(one.parameters, len(one.draft.recipe.ema)) >= self.room:
            return False
        needed, given = min(IMAGES_PER_PARAMETER * one.parameters, self.carried), one.draft.recipe.duration
        return given >= needed and self.within(rate or self.rate(one)) >= (given if one.fixed else needed)

    def reasons(self, one: Candidate, config: TrainConfig, fit: Fit, by_default: bool) -> tuple[str, ...]:
        """Five lines: network, time, memory, optimizer, data and averages."""
        recipe, network = config.recipe, config.recipe.network
        plus, on_cpu = "d" in network.branch.split(), self.device.type == "cpu"
        family = "EDM2+ blocks" if plus else "EDM2 blocks"
        if plus == self.ladder.depthwise(network.model_channels) and not self.dataset.latents:
            faster = f", which a CPU trains faster at this width than EDM2{'' if plus else '+'}"
            family += faster if on_cpu else ", as its paper found better per operation"
        classes = f"{network.label_dim} classes" if network.label_dim else "no classes"
        classes += "".join(f", {one.summary}" for one in network.conditions)
        levels = " ".join(map(str, network.channel_mult))
        padded = show_size(network.level_sizes[0])
        shape = f"{network.channels}x{'x'.join(map(str, network.size))}"
        shape += "" if network.level_sizes[0] == network.size else f", padded to {padded} inside"
        seconds, why = recipe.duration / one.rate / TRAINING, self.why_so_long(one, recipe.duration, by_default)
        size = self.world.size
        passes = -(-config.microbatches // size)
        at_once = f"{passes} passes of {config.microbatch} accumulated" if passes > 1 else "in one pass"
        here, each = (f"by {size} processes at once", " of each process") if size > 1 else ("here", "")
        measured = isinstance(self.dataset.encoder, ArrayEncoder) or config.normalize == "measured"
        seen = "normalized as measured, mean 0 and deviation 0.5" if measured else "as they are"
        return (
            f"network: {shape}, {classes}; width {network.model_channels}, levels {levels}, "
            f"{network.num_blocks} per level, {one.parameters / 1e6:.2f} million parameters; {family}",
            f"time: {one.rate:.3g} images/s measured {here}; {recipe.duration:,} images in {span(seconds)} ({why})",
            f"memory: about {show_bytes(fit.bytes)} for a step{each}, {at_once}; {show_bytes(self.room)} may be taken",
            f"optimizer: batch {recipe.batch}, {recipe.duration // recipe.batch:,} steps, learning rate {recipe.lr:g} "
            f"falling after {recipe.t_ref:g} steps, {recipe.precision}; by the papers' rules",
            f"data and averages: values {seen}; EMA lengths {', '.join(f'{length:g}' for length in recipe.ema)}, a "
            f"snapshot every {recipe.snapshot_every:,} images, so that any other length can be made afterwards",
        )

    def why_so_long(self, one: Candidate, duration: int, by_default: bool) -> str:
        """Where a duration comes from, and what another is good for."""
        carries = f"the {len(self.dataset):,} pictures carry"
        if duration >= self.carried:
            why = f"all that {carries}"
        elif one.fixed:
            why = f"as it was given; {carries} {self.carried:,}"
        else:
            longer = self.carried / one.rate / TRAINING / 3600
            limit = f"the {'default' if by_default else 'time given'}, {span(3600 * self.hours)}"
            why = f"{limit}; {carries} {self.carried:,}, --hours {longer:.2g}"
        if duration < min(IMAGES_PER_PARAMETER * one.parameters, self.carried):
            why += "; expect rough samples: more hours, a lower resolution or a less busy machine give better ones"
        return why
