"""The microbatches of a step: which images, which noise, on which process."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unitgain.data.dataset import ArrayDataset
from unitgain.data.order import derive, indices
from unitgain.loss import EDMLoss
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
    dataset: ArrayDataset
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
        loss = EDMLoss(recipe.P_mean, recipe.P_std)
        passes = -(-count // self.world.size)
        for turn in range(passes):
            place = turn * self.world.size + self.world.rank
            index = min(place, count - 1)
            clean, label = self._fetch(nimg + index * size, size)
            clean = clean.to(device)
            label = label.to(device) if label is not None and recipe.network.label_dim else None
            seed = derive(config.seed, nimg, index)
            sigma, noise = loss.draw(clean, torch.Generator(device).manual_seed(seed))
            torch.manual_seed(derive(seed))  # for dropout
            yield Microbatch(
                clean=clean, sigma=sigma, noise=noise, label=label, counts=place < count, last=turn == passes - 1
            )

    def _fetch(self, start: int, count: int) -> tuple[Tensor, Tensor | None]:
        """The images number `start` ... `start + count - 1` of the run, as the network sees them, and their labels."""
        return self.dataset.batch(indices(start, count, len(self.dataset), self.config.seed))
