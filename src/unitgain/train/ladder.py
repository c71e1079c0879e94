"""The networks that come into question for some data, from small to large, each with its run by the papers' rules."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from unitgain.arch import NetworkSpec
from unitgain.arch.conditions import Condition
from unitgain.data.check import scale
from unitgain.data.dataset import ArrayDataset, Dataset
from unitgain.data.encoder import PixelEncoder
from unitgain.data.prepared import PreparedDataset
from unitgain.data.settings import Normalize
from unitgain.data.wrapped import WrappedDataset
from unitgain.infer import fastest_precision
from unitgain.recipe import trained_parameters
from unitgain.train.accumulation import blocks_per_level
from unitgain.train.config import TrainConfig
from unitgain.train.declare import declared
from unitgain.train.rules import carried, network_for, recipe_for

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
BFLOAT16_FROM = 32  # base width on a CPU: it gains a sixth at 16, two fifths at 32 (benchmarks/planned_families.py)
DEPTHWISE_FROM = 64  # base width from which a CPU trains EDM2+ faster than EDM2 (benchmarks/planned_families.py)
Change = Callable[[TrainConfig], TrainConfig]


@dataclass(eq=False)
class Candidate:
    """A network that comes into question.

    Attributes:
        draft: settings of a run for all that the data carry.
        fixed: whether its duration is not for the plan to choose.
        rate: images per second, as measured; 0 before.
    """

    draft: TrainConfig
    fixed: bool
    rate: float = 0.0

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


class Ladder:
    """The sizes of networks for some data.

    Attributes:
        carried: images that a run may see, as the data carry no more (`unitgain.train.rules.carried`).
        normalize: how their pixels are normalized.
        conditions: that networks have for them.

    Args:
        dataset: the data.
        device: where a network will train.
        change: made to the settings of each, so that what it fixes is heeded; calling it twice does the same as once.
    """

    def __init__(self, dataset: Dataset, device: torch.device, change: Change) -> None:
        self.dataset, self.device, self.change = dataset, device, change
        self.carried = carried(len(dataset))
        self.normalize: Normalize = normalization(dataset)
        self.conditions: tuple[Condition, ...] = ()
        if dataset.condition_shapes:
            smallest = self.by_rules(self.network(*SIZES[0]), self.carried)
            self.conditions = declared(dataset, change(smallest).conditions)

    def candidates(self) -> list[Candidate]:
        """From the smallest; what `change` makes the same comes once."""
        ends = [self.settings(self.network(*size), self.carried)[0] for size in (SIZES[0], SIZES[-1])]
        first, last = (config.recipe.network.model_channels for config in ends)
        sizes = SIZES if first != last else [(first, blocks) for _, blocks in SIZES]  # the width is fixed
        made: list[Candidate] = []
        for network in dict.fromkeys(self.network(*size) for size in sizes):
            draft, fixed = self.settings(network, self.carried)
            if not made or draft.recipe.network != made[-1].draft.recipe.network:
                made.append(Candidate(draft, fixed))
        return made

    def network(self, width: int, blocks: int) -> NetworkSpec:
        """Of a base width and so many blocks per level, for the data."""
        plain = network_for(self.dataset.shape, self.dataset.label_dim, width, blocks, self.depthwise(width))
        return plain.replace(conditions=self.conditions)

    def depthwise(self, width: int) -> bool:
        """Whether a network of this base width is of EDM2+, rather than EDM2."""
        return not self.dataset.latents and (self.device.type == "cuda" or width >= DEPTHWISE_FROM)

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


def normalization(dataset: Dataset) -> Normalize:
    """How the pixels of these data are normalized: "measured" if they are not what the noise levels presume.

    That is 8-bit pixels in the official range whose standard deviation is more than a tenth off 0.5, or whose mean is
    off 0 by more than 0.1. Other data bring their own normalization: "official" leaves it.
    """
    if dataset.encoder != PixelEncoder():
        return "official"
    if isinstance(dataset, PreparedDataset):
        mean, std = dataset.manifest.mean, dataset.manifest.std
    elif isinstance(dataset, ArrayDataset) and dataset.dtype == torch.uint8:
        measured = PixelEncoder.measure(dataset.images)
        mean, std = (measured.mean,), (measured.std,)
    elif isinstance(dataset, WrappedDataset) and dataset.dtype == torch.uint8:
        mean, std = dataset.mean, dataset.std
    else:
        return "official"
    return "official" if scale(dataset.encoder, np.array(mean), np.array(std)).fits else "measured"
