"""A network and a recipe for some data on this machine, by the papers' rules and a short measurement."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from unitgain.analysis.room import free_memory
from unitgain.arch import NetworkSpec
from unitgain.data.check import scale
from unitgain.data.dataset import ArrayDataset, Dataset
from unitgain.data.encoder import PixelEncoder
from unitgain.data.prepared import PreparedDataset
from unitgain.data.settings import Normalize
from unitgain.infer import fastest_precision
from unitgain.parallel import pick_device
from unitgain.recipe import Recipe, trained_parameters
from unitgain.size import show_size
from unitgain.text import span
from unitgain.train.accumulation import MOST_BYTES, PART, Fit, blocks_per_level, fitting, numbers, show_bytes
from unitgain.train.config import Device, Execution, TrainConfig
from unitgain.train.rules import carried, network_for, recipe_for
from unitgain.train.warmup import images_per_second

# Base width and blocks per level, from the smallest network to the papers' largest; from 128 on they are the papers'.
SIZES = (
    (16, 1),
    (24, 1),
    (32, 1),
    (48, 1),
    (64, 1),
    (64, 2),
    (96, 2),
    (128, 2),
    (128, 3),
    (192, 3),
    (256, 3),
    (320, 3),
    (384, 3),
    (448, 3),
)
HOURS = {"cpu": 0.75, "cuda": 24.0}  # that a run gets by default, at most: the data may carry less
TRAINING = 0.95  # part of the time that steps get: the rest is for snapshots, checkpoints and statistics
# A network is only taken where the run has an image for every eighth parameter. The digits' recipe has 0.11 (38,400 of
# 337,000), the papers' from 17 (XS) down to 0.6 (XXL); with fewer a smaller network that sees more of them is better.
IMAGES_PER_PARAMETER = 1 / 8
BFLOAT16_FROM = 32  # base width on a CPU: at 16 a step takes as long in float32, at 32 a fifth longer (Xeon with AMX)
MEASURED = {"cpu": 32, "cuda": 256}  # images of a step that is measured, at most
Change = Callable[[TrainConfig], TrainConfig]
Measure = Callable[[Recipe, int, torch.device], float]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run for some data on this machine: `train(plan.config, folder, dataset, execution=plan.execution)`.

    Attributes:
        config: what is trained: an ordinary recipe, gradient accumulation, how pixels are normalized.
        execution: how it is carried out.
        images_per_second: as measured.
        memory: bytes that a step is estimated to take at its peak, beside what the process has.
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

    The network is one of the papers': EDM2 on CPUs and for latents, EDM2+ for pixels on GPUs. Of the sizes that fit
    into memory it is the largest whose speed leaves the run an image for every eighth parameter, within the time. Speed
    is measured, with some steps of the sizes that come into question. The duration is what the time allows, but not
    more than the data carry: 1676 passes over them, as the papers make over ImageNet (`unitgain.train.rules.carried`).
    Batch, learning rate, t_ref, ramp-up and snapshots follow from duration and width: `unitgain.train.rules` states
    each rule with its source. Networks have the classes of the data. Precision is bfloat16 where the machine multiplies
    it faster (on CPUs from a width of 32 on). Pixels are normalized as measured where their mean and standard deviation
    are far from the 0 and 0.5 that the noise levels presume. What does not fit into memory at once is accumulated.

    Args:
        dataset: prepared data, or any others.
        hours: that the run may take; None for 0.75 on a CPU and 24 on a GPU.
        device: where it will train.
        change: made to each settings that are considered, so that what it fixes (a width, a batch, a duration) is
            heeded when the rest is chosen; calling it twice does the same as once.
        memory: bytes that a step may take; None for nine tenths of what is free.
        measure: images per second of a recipe with steps of so many images on a device.

    Raises:
        ValueError: if `hours` is not positive, or no network fits into memory.
    """
    where = pick_device(device)
    limit = HOURS[where.type] if hours is None else hours
    if not 0 < limit < math.inf:
        raise ValueError(f"hours = {hours}: must be positive")
    room = int(PART * free_memory(where).bytes) if memory is None else memory
    planner = _Planner(dataset, where, limit, change, room, measure)
    choice, fit = planner.choose()
    execution = Execution(device=device)
    config = choice.config
    if fit.microbatch != config.recipe.batch:
        config = replace(config, microbatch=fit.microbatch)
    return Plan(
        config=config,
        execution=execution,
        images_per_second=choice.rate,
        memory=fit.bytes,
        reasons=planner.reasons(choice, config, fit, hours is None),
    )


@dataclass(eq=False)
class _Candidate:
    """A network that comes into question, with the settings of the run that it would be.

    Attributes:
        draft: settings of a run for all that the data carry.
        fixed: whether its duration is not for the plan to choose.
        rate: images per second, as measured; 0 before.
    """

    draft: TrainConfig
    fixed: bool
    rate: float = 0.0
    config: TrainConfig = field(init=False)

    @cached_property
    def work(self) -> float:
        """In proportion to the multiply-adds for an image, by which the speed of sizes is foretold: pixels width^2."""
        network = self.draft.recipe.network
        levels = zip(network.level_sizes, network.widths, strict=True)
        return blocks_per_level(network) * sum(math.prod(sides) * width**2 for sides, width in levels)

    @cached_property
    def parameters(self) -> int:
        """Of the network and u(sigma)."""
        return trained_parameters(self.draft.recipe)


class _Planner:
    def __init__(
        self, dataset: Dataset, device: torch.device, hours: float, change: Change, room: int, measure: Measure
    ) -> None:
        self.dataset, self.device, self.hours = dataset, device, hours
        self.change, self.room, self.measure = change, room, measure
        self.carried = carried(len(dataset))
        self.normalize: Normalize = normalization(dataset)
        self.depthwise = device.type == "cuda" and not dataset.latents
        self._made: dict[tuple[int, int], _Candidate] = {}

    @cached_property
    def candidates(self) -> list[_Candidate]:
        """From the smallest; what `change` makes the same comes once."""
        made: list[_Candidate] = []
        for width, blocks in SIZES:
            network = network_for(self.dataset.shape, self.dataset.label_dim, width, blocks, self.depthwise)
            draft, fixed = self.settings(network, self.carried)
            if not made or draft.recipe.network != made[-1].draft.recipe.network:
                made.append(_Candidate(draft, fixed))
        return made

    def settings(self, network: NetworkSpec, images: int) -> tuple[TrainConfig, bool]:
        """Settings by the rules for a network and a duration, with what is fixed, and whether the duration is."""
        plain = self.by_rules(network, images)
        recipe = self.change(plain).recipe
        fixed = recipe.duration != plain.recipe.replace(batch=recipe.batch).duration
        batch = recipe.batch if recipe.batch != plain.recipe.batch else 0
        return self.change(self.by_rules(recipe.network, recipe.duration if fixed else images, batch)), fixed

    def by_rules(self, network: NetworkSpec, images: int, batch: int = 0) -> TrainConfig:
        """Settings for a network and a duration."""
        fast = self.device.type == "cuda" or network.model_channels >= BFLOAT16_FROM
        precision = fastest_precision(self.device) if fast else "float32"
        recipe = recipe_for(network, images, latents=self.dataset.latents, precision=precision, batch=batch)
        return TrainConfig(recipe=recipe, data=self.dataset.name, normalize=self.normalize)

    def within(self, rate: float) -> int:
        """Images that the time allows at so many per second."""
        return int(rate * TRAINING * 3600 * self.hours)

    def suits(self, one: _Candidate, rate: float) -> bool:
        """Whether the run is long enough for the network, at so many images per second."""
        needed = min(IMAGES_PER_PARAMETER * one.parameters, self.carried)
        return self.within(rate) >= (one.draft.recipe.duration if one.fixed else needed) and self.state_fits(one)

    def state_fits(self, one: _Candidate) -> bool:
        """Whether weights, gradients, Adam and averages alone fit."""
        return 4 * (4 + len(one.draft.recipe.ema)) * one.parameters < self.room

    def choose(self) -> tuple[_Candidate, Fit]:
        """The largest network that suits, as far as measured, and that fits."""
        ladder, index = self.candidates, 0
        while True:
            one = ladder[index]
            if not one.rate:
                one.rate = self.measure(one.draft.recipe, self._images(one), self.device)
            speed = one.rate * one.work
            index = self._largest(ladder, speed)
            if ladder[index].rate:
                break
        for one in reversed(ladder[: index + 1]):
            if not one.rate:
                one.rate = self.measure(one.draft.recipe, self._images(one), self.device)
            images = min(self.carried, max(self.within(one.rate), 1))
            one.config, _ = self.settings(one.draft.recipe.network, images)
            fit = fitting(one.config.recipe, self.room, self.device, microbatch=one.config.microbatch)
            if fit.microbatch is not None:
                return one, fit
        raise ValueError(
            f"not even the smallest network fits into memory: a step of one image takes {show_bytes(fit.bytes)}, "
            f"{show_bytes(self.room)} may be taken. Prepare the data at a lower resolution (unitgain data prepare "
            "--resolution N)"
        )

    def _largest(self, ladder: list[_Candidate], speed: float) -> int:
        """The place of the largest network that suits, at so much work per second where it is not measured."""
        best = 0
        for place, one in enumerate(ladder):
            if not self.suits(one, one.rate or speed / one.work):
                if place and not one.rate:
                    break  # those beyond are larger
                continue
            best = place
        return best

    def _images(self, one: _Candidate) -> int:
        """Images of a step that is measured: far fewer than what fits."""
        each = MOST_BYTES * numbers(one.draft.recipe.network)
        most = min(MEASURED[self.device.type], one.draft.recipe.batch, self.room // (2 * each))
        return 2 ** int(math.log2(max(most, 1)))

    def reasons(self, one: _Candidate, config: TrainConfig, fit: Fit, by_default: bool) -> tuple[str, ...]:
        """Five lines: network, time, memory, optimizer, data and averages."""
        recipe, network = config.recipe, config.recipe.network
        plus = "d" in network.branch.split()
        family = "EDM2+ blocks, as its paper found better per operation" if plus else "EDM2 blocks"
        if not plus and self.device.type == "cpu":
            family += ", which CPUs train faster than EDM2+'s depthwise ones"
        classes = f"{network.label_dim} classes" if network.label_dim else "no classes"
        levels = " ".join(map(str, network.channel_mult))
        padded = show_size(network.level_sizes[0])
        size = f"{network.channels}x{'x'.join(map(str, network.size))}"
        size += "" if network.level_sizes[0] == network.size else f", padded to {padded} inside"
        seconds = recipe.duration / one.rate / TRAINING
        carries = f"the {len(self.dataset):,} pictures carry {self.carried:,}"
        if recipe.duration >= self.carried:
            why = f"all that the {len(self.dataset):,} pictures carry"
        elif one.fixed:
            why = f"as it was given; {carries}"
        else:
            longer = self.carried / one.rate / TRAINING / 3600
            limit = f"the {'default' if by_default else 'time given'}, {span(3600 * self.hours)}"
            why = f"{limit}; {carries}, --hours {longer:.2g}"
        if recipe.duration < min(IMAGES_PER_PARAMETER * one.parameters, self.carried):
            why += "; expect rough samples: more hours, a lower resolution or a less busy machine give better ones"
        passes = recipe.batch // (config.microbatch or recipe.batch)
        at_once = f"{passes} passes of {config.microbatch} accumulated" if passes > 1 else "in one pass"
        seen = "normalized as measured, mean 0 and deviation 0.5" if config.normalize == "measured" else "as they are"
        return (
            f"network: {size}, {classes}; width {network.model_channels}, levels {levels}, "
            f"{network.num_blocks} per level, {one.parameters / 1e6:.2f} million parameters; {family}",
            f"time: {one.rate:.3g} images/s measured here; {recipe.duration:,} images in {span(seconds)} ({why})",
            f"memory: about {show_bytes(fit.bytes)} for a step, {at_once}; {show_bytes(self.room)} may be taken",
            f"optimizer: batch {recipe.batch}, {recipe.duration // recipe.batch:,} steps, learning rate {recipe.lr:g} "
            f"falling after {recipe.t_ref:g} steps, {recipe.precision}; by the papers' rules",
            f"data and averages: pixels {seen}; EMA lengths {', '.join(f'{length:g}' for length in recipe.ema)}, a "
            f"snapshot every {recipe.snapshot_every:,} images, so that any other length can be made afterwards",
        )


def normalization(dataset: Dataset) -> Normalize:
    """How the pixels of these data are normalized: "measured" if they are not what the noise levels presume.

    That is 8-bit pixels in the official range whose standard deviation is more than a tenth off 0.5, or whose mean is
    off 0 by more than 0.1. Other data bring their own normalization: "official" leaves it.
    """
    if not isinstance(dataset.encoder, PixelEncoder) or dataset.encoder != PixelEncoder():
        return "official"
    if isinstance(dataset, PreparedDataset):
        import numpy as np

        manifest = dataset.manifest
        return "official" if scale(dataset, np.array(manifest.mean), np.array(manifest.std)).fits else "measured"
    if isinstance(dataset, ArrayDataset) and dataset.dtype == torch.uint8:
        measured = PixelEncoder.measure(dataset.images)
        off = abs(measured.mean - 127.5) / 63.75 * 0.5, abs(measured.std / 63.75 - 1)
        return "official" if max(off) <= 0.1 else "measured"
    return "official"
