"""Contact sheets of images that were drawn: with the names of their classes."""

from collections import Counter
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from unitgain.classes import Classes
from unitgain.data.captions import captioned_grid
from unitgain.data.images import grid
from unitgain.draw.settings import DrawSettings


def draw_sheet(
    images: Mapping[int, Tensor],
    labels: Mapping[int, int | None],
    columns: int | None,
    settings: DrawSettings,
    classes: Classes,
) -> Image.Image:
    """The images in rows with the names of their classes: where each of several has as many, a row for each class.

    Args:
        images: by seed, in the order of seeds.
        labels: of each; None of an unconditional network.
        columns: in a row; by default as many as a class has, or about square.
        settings: which classes were asked for, by number.
        classes: of the network.
    """
    seeds = list(images)
    own = {seed: label for seed in seeds if (label := labels.get(seed)) is not None}
    if len(own) < len(seeds):
        return grid(torch.stack(list(images.values())), columns)
    wanted = settings.label if isinstance(settings.label, tuple) else ()
    counts = Counter(own.values())
    if counts.keys() == set(wanted) and len(set(counts.values())) == 1:
        seeds.sort(key=lambda seed: wanted.index(own[seed]))
        columns = columns or len(seeds) // len(counts)
    names = [classes.label(own[seed]) for seed in seeds]
    return captioned_grid(torch.stack([images[seed] for seed in seeds]), names, columns)
