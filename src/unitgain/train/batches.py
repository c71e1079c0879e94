"""The microbatches of a step: which images, which noise, on which process."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import one_hot

from unitgain.arch.conditions import Condition
from unitgain.arch.values import Conditions
from unitgain.data.dataset import Dataset, Labels
from unitgain.data.loader import Loader
from unitgain.data.order import CONDITIONS, LABELS, derive, uniform
from unitgain.denoiser import ClassLabel, Label
from unitgain.parallel import World
from unitgain.train.config import TrainConfig
from unitgain.train.step import Microbatch


@dataclass(frozen=True)
class Batches:
    """The data of a run as one process sees them.

    Args:
        config: of the run.
        dataset: images and labels.
        world: the processes; each takes every `size`-th microbatch.
    """

    config: TrainConfig
    dataset: Dataset
    world: World

    def at(self, nimg: int) -> Iterator[Microbatch]:
        """This process's part of the batch that follows `nimg` images.

        Every random draw is a function of the seed, the images seen and the microbatch, so the number of processes
        changes nothing. All of them get as many microbatches; what one has too few is filled up with ones that do not
        count, because sharded parameters are gathered by all processes together.
        """
        config, device = self.config, self.world.device
        recipe, count = config.recipe, config.microbatches
        size = recipe.batch // count
        passes = -(-count // self.world.size)
        for turn in range(passes):
            place = turn * self.world.size + self.world.rank
            index = min(place, count - 1)
            stored, label = self.loader.fetch(nimg + index * size, size)
            label = self._told(label, nimg + index * size)
            seed = derive(config.seed, nimg, index)
            generator = torch.Generator(device).manual_seed(seed)
            clean = self.dataset.encode(stored.to(device, non_blocking=True), generator)
            sigma, noise = recipe.loss.draw(clean, generator)
            torch.manual_seed(derive(seed))  # for dropout
            yield Microbatch(
                clean=clean, sigma=sigma, noise=noise, label=label, counts=place < count, last=turn == passes - 1
            )

    def _told(self, label: Labels | Conditions, first: int) -> Label:
        """What the denoiser is told of the images from number `first` on, with some of it dropped."""
        if not isinstance(label, Conditions):
            return self._label(label, first)
        spec, seed = self.config.recipe.network, self.config.seed
        for name, gone in dropped(spec.conditions, first, len(label), seed).items():
            label = label.without(name, torch.from_numpy(gone))
        return label.to(self.world.device, non_blocking=True).with_label(self._label(label.label, first))

    def _label(self, label: Labels, first: int) -> ClassLabel:
        """Labels of the images from number `first` on as the denoiser takes them; those that are dropped are zeros."""
        recipe = self.config.recipe
        if label is None or not recipe.network.label_dim:
            return None
        if recipe.label_dropout:
            stay = uniform(first, len(label), self.config.seed, LABELS) >= recipe.label_dropout
            label = one_hot(label, recipe.network.label_dim) * torch.from_numpy(stay)[:, None].float()
        return label.to(self.world.device)

    @cached_property
    def loader(self) -> Loader:
        """Reads ahead; to be closed at the end."""
        config, pin = self.config, self.world.device.type == "cuda"
        options = {"flip": config.flip, "workers": config.workers, "cache": config.cache, "pin": pin}
        options["conditions"] = config.recipe.network.conditions
        return Loader(self.dataset, config.seed, **options)


def dropped(conditions: Sequence[Condition], first: int, count: int, seed: int) -> dict[str, NDArray[np.bool_]]:
    """Which of the images from number `first` on are trained on without a condition, by its name.

    Each image tosses a coin: either all its conditions go by the draw that its label goes by, so that those of equal
    dropout are left out together, or each goes by a draw of its own. So guidance may leave out one or all: by draws of
    their own alone, a network would hardly see images that lack them all.
    """
    shared = uniform(first, count, seed, LABELS)
    together = uniform(first, count, seed, CONDITIONS) < 0.5
    gone = {}
    for one in conditions:
        if one.dropout:
            own = uniform(first, count, seed, derive(CONDITIONS, zlib.crc32(one.name.encode())))
            gone[one.name] = np.where(together, shared, own) < one.dropout
    return gone
