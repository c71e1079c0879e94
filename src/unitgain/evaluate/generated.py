"""Images or arrays drawn by a network as they are measured, and not kept; those that `draw.write_images` writes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from unitgain.data.encoder import encoder_from_dict
from unitgain.denoiser import classes_of
from unitgain.draw.decode import decoder_of, draws_arrays
from unitgain.draw.images import draw_images
from unitgain.draw.networks import Network, guide_by
from unitgain.draw.rows import check_told
from unitgain.draw.run import describe
from unitgain.draw.settings import DrawSettings
from unitgain.evaluate.images import as_ranges, drawn, scale_of_encoder
from unitgain.metrics.record import Source
from unitgain.metrics.summary import as_seen
from unitgain.sample.seeds import as_seeds


@dataclass(eq=False)
class Generated:
    """The images of seeds; image number i is that of the i-th seed.

    Args:
        main: the network.
        guide: what guides it; None for itself without its label. Not used at a guidance of 1.
        settings: how they are drawn.
        seeds: one per image.
        device: where the networks are.
        batch: images in flight at a time; does not change them.
        on_images: as in `unitgain.sample.generate`.

    Attributes:
        about: how they are drawn, as a manifest has it.
        source: what the images are, as records have it.
        scale: mean and standard deviation that pixels, or each channel of arrays, are standardized with; None of
            latents.
        arrays: whether they are signals, fields or volumes rather than pictures.

    Raises:
        ValueError: if the networks or the class do not fit, or a network is told more than a class and `settings` do
            not say what.
    """

    main: Network
    guide: Network | None
    settings: DrawSettings
    seeds: Sequence[int]
    _: KW_ONLY
    device: torch.device | str = "cpu"
    batch: int = 64
    on_images: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        self.seeds = as_seeds(self.seeds)
        main = self.main.denoiser
        self.settings, self.device = self.settings.with_classes(classes_of(main)), torch.device(self.device)
        check_told(main.spec, self.settings)
        self.denoiser = guide_by(self.main, self.guide, self.settings)
        self.decode = decoder_of(main, self.settings.vae)
        self.about = describe(self.main, self.guide, self.settings, self.device)
        seeds = as_ranges(self.seeds)
        self.source = Source(kind="snapshot", name=self.main.name, seeds=seeds, **drawn(self.about))
        self.scale = scale_of_encoder(encoder_from_dict(self.main.encoder))
        self.arrays = draws_arrays(self.main.encoder)

    def __len__(self) -> int:
        return len(self.seeds)

    def batches(self, numbers: Sequence[int]) -> Iterator[Shaped[Tensor, "n c *size"]]:
        """As in `Images`."""
        seeds = [self.seeds[number] for number in numbers]
        drawn = draw_images(
            self.denoiser, self.decode, seeds, self.settings, batch=self.batch, on_images=self.on_images
        )
        return (as_seen(images) for *_, images in drawn)
