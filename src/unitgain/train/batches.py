"""The microbatches of a step: which images, which noise, on which process."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import one_hot

from unitgain.data.dataset import Dataset, Labels
from unitgain.data.loader import Loader
from unitgain.data.order import LABELS, derive, uniform
from unitgain.denoiser import Label
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
            label = self._label(label, nimg + index * size)
            seed = derive(config.seed, nimg, index)
            generator = torch.Generator(device).manual_seed(seed)
            clean = self.dataset.encode(stored.to(device, non_blocking=True), generator)
            sigma, noise = recipe.loss.draw(clean, generator)
            torch.manual_seed(derive(seed))  # for dropout
            yield Microbatch(
                clean=clean, sigma=sigma, noise=noise, label=label, counts=place < count, last=turn == passes - 1
            )

    def _label(self, label: Labels, first: int) -> Label:
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
        return Loader(self.dataset, config.seed, **options)
