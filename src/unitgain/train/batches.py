"""The microbatches of a step: which images, which noise, on which process."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from unitgain.data.loader import Dataset, Loader
from unitgain.data.order import derive
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
        loss = EDMLoss(recipe.P_mean, recipe.P_std)
        passes = -(-count // self.world.size)
        for turn in range(passes):
            place = turn * self.world.size + self.world.rank
            index = min(place, count - 1)
            stored, label = self.loader.fetch(nimg + index * size, size)
            label = label.to(device) if label is not None and recipe.network.label_dim else None
            seed = derive(config.seed, nimg, index)
            generator = torch.Generator(device).manual_seed(seed)
            clean = self.dataset.encode(stored.to(device, non_blocking=True), generator)
            sigma, noise = loss.draw(clean, generator)
            torch.manual_seed(derive(seed))  # for dropout
            yield Microbatch(
                clean=clean, sigma=sigma, noise=noise, label=label, counts=place < count, last=turn == passes - 1
            )

    @cached_property
    def loader(self) -> Loader:
        """Reads ahead; to be closed at the end."""
        config, pin = self.config, self.world.device.type == "cuda"
        options = {"flip": config.flip, "workers": config.workers, "cache": config.cache, "pin": pin}
        return Loader(self.dataset, config.seed, **options)
