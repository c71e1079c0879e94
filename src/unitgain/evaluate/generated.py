"""Images drawn by a network as they are measured, and not kept; the same as `unitgain.draw.write_images` writes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from unitgain.data.encoder import PixelEncoder, encoder_from_dict
from unitgain.denoiser import classes_of
from unitgain.draw.decode import decoder_of, require_pictures
from unitgain.draw.images import draw_images
from unitgain.draw.networks import Network, guide_by
from unitgain.draw.rows import check_told
from unitgain.draw.run import describe
from unitgain.draw.settings import DrawSettings
from unitgain.evaluate.images import as_ranges, drawn
from unitgain.metrics.record import Source
from unitgain.sample.seeds import check_seeds


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
        scale: mean and standard deviation that pixels are standardized with; None of latents.

    Raises:
        ValueError: if the networks or the class do not fit, or what they draw is no picture, or a network is told more
            than a class and `settings` do not say what.
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
        check_seeds(self.seeds)
        main = self.main.denoiser
        require_pictures(self.main.encoder, "metrics")
        self.settings, self.device = self.settings.with_classes(classes_of(main)), torch.device(self.device)
        check_told(main.spec, self.settings)
        self.denoiser = guide_by(self.main, self.guide, self.settings)
        self.decode = decoder_of(main, self.settings.vae)
        self.about = describe(self.main, self.guide, self.settings, self.device)
        seeds = as_ranges(self.seeds)
        self.source = Source(kind="snapshot", name=self.main.name, seeds=seeds, **drawn(self.about))
        encoder = encoder_from_dict(self.main.encoder)
        self.scale = (encoder.mean, encoder.std) if isinstance(encoder, PixelEncoder) else None

    def __len__(self) -> int:
        return len(self.seeds)

    def batches(self, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """As in `Images`."""
        seeds = [self.seeds[number] for number in numbers]
        drawn = draw_images(
            self.denoiser, self.decode, seeds, self.settings, batch=self.batch, on_images=self.on_images
        )
        return (images for *_, images in drawn)
