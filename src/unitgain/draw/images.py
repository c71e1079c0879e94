"""Images of seeds in memory, in one call."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unitgain.classes import Class
from unitgain.data.images import to_image
from unitgain.denoiser import Denoiser
from unitgain.draw.decode import decoder
from unitgain.draw.settings import DrawSettings
from unitgain.guide import Guided
from unitgain.sample import generate

DEFAULTS = DrawSettings()


def to_pixels(
    denoiser: Denoiser | Guided, samples: Tensor, vae: str | None = None
) -> UInt8[Tensor, "n channels height width"]:
    """What a network draws as 8-bit pixels on the CPU; latents are decoded with the VAE that the network names.

    Args:
        denoiser: says how images became what it sees; where it does not, samples are RGB from -1 to 1.
        samples: `[N, C, H, W]`, on its device.
        vae: folder or Hub id of another VAE.

    Raises:
        ImportError: if there are latents and diffusers is missing.
        ValueError: if they are no pictures, or the VAE is not to be had or not needed.
    """
    return decoder(denoiser.encoder, denoiser.spec.channels, samples.device, vae)(samples)


def sample_pixels(
    denoiser: Denoiser | Guided,
    seeds: Sequence[int],
    *,
    label: Class | Sequence[Class] | None = None,
    settings: DrawSettings = DEFAULTS,
    batch: int = 64,
) -> UInt8[Tensor, "n channels height width"]:
    """The images of seeds as 8-bit pixels `[N, C, H, W]`; an image depends on its seed alone.

    Args:
        denoiser: in evaluation mode, guided or not.
        seeds: one per image.
        label: class of all images, or one per seed, by number or name; by default that of the settings, or each seed
            draws its own.
        settings: sampler, steps, class and VAE; the guidance is that of `denoiser`.
        batch: images in flight at a time; does not change them.

    Raises:
        ValueError: as `generate` and `to_pixels`.
    """
    device = next(denoiser.parameters()).device
    decode = decoder(denoiser.encoder, denoiser.spec.channels, device, settings.vae)
    label = settings.labels(seeds) if label is None else label
    parts = generate(denoiser, seeds, settings.sigmas(), sampler=settings.sampler, label=label, batch=batch)
    return torch.cat([decode(samples) for _, _, samples in parts])


def sample_images(
    denoiser: Denoiser | Guided,
    seeds: Sequence[int],
    *,
    label: Class | Sequence[Class] | None = None,
    settings: DrawSettings = DEFAULTS,
    batch: int = 64,
) -> list[Image.Image]:
    """As `sample_pixels`, as pictures of Pillow."""
    pixels = sample_pixels(denoiser, seeds, label=label, settings=settings, batch=batch)
    return [to_image(one) for one in pixels]
