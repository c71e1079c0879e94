"""From what a network draws to 8-bit pixels, or to the numbers of its data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from unitgain.data.encoder import ArrayEncoder, LatentEncoder, PixelEncoder, encoder_from_dict
from unitgain.data.preview import pictures_of
from unitgain.data.vae import load_vae
from unitgain.denoiser import Denoiser
from unitgain.guide import Guided
from unitgain.sample.tiles import fill_tiles

Decode = Callable[[Tensor], Tensor]
Paint = Callable[[Tensor], UInt8[Tensor, "n c h w"]]


def decoder(
    encoder: Mapping[str, Any] | None, channels: int, device: torch.device | str = "cpu", vae: str | None = None
) -> Decode:
    """The function that makes 8-bit pictures on the CPU of a network's images, `[n, C, H, W]` of both; or arrays
    `[n, C, *size]` of the numbers that its data have.

    Latents are decoded on `device`, wherever they come from, and so many at a time that a picture does not depend on
    how many there are.

    Args:
        encoder: how images become what the network sees, as a snapshot's header has it; None for RGB from -1 to 1.
        channels: of the network.
        device: where latents are decoded.
        vae: folder or Hub id of the VAE, where it is not the one that `encoder` names.

    Raises:
        ImportError: if there are latents and diffusers is missing.
        ValueError: if it cannot make pictures of them, or the VAE is not to be had or not needed.
    """
    opened = encoder_from_dict(encoder or {})
    pixels = isinstance(opened, PixelEncoder)
    if vae is not None and not isinstance(opened, LatentEncoder):
        raise ValueError(f"the VAE {vae} is of no use: the network draws {'pixels' if pixels else 'arrays'}")
    if pixels and channels not in (1, 3):
        raise ValueError(f"the network draws {channels} channels, which are no picture of 1 or 3")
    if not isinstance(opened, PixelEncoder) and channels != len(opened.mean):
        raise ValueError(f"the network draws {channels} channels, but its encoder has {len(opened.mean)}")
    if not isinstance(opened, LatentEncoder):
        return lambda images: opened.decode(images).cpu()
    latents = dataclasses.replace(opened, vae=vae or opened.vae)
    place = torch.device(device)
    load_vae(latents.vae, place)  # now rather than after the first batch, if it is not to be had
    tile = 1 if place.type == "cpu" else 8

    def decode(images: Tensor) -> Tensor:
        images = images.to(place)  # a VAE on another device would push out this one
        filled = fill_tiles(len(images), tile, images.device)
        parts = [latents.decode(images[filled[i : i + tile]]).cpu() for i in range(0, len(filled), tile)]
        return torch.cat(parts)[: len(images)]

    return decode


def decoder_of(denoiser: Denoiser | Guided, vae: str | None = None) -> Decode:
    """`decoder` of what a network draws, on its device."""
    device = next(denoiser.parameters()).device
    return decoder(denoiser.encoder, denoiser.spec.channels, device, vae)


def painter(
    encoder: Mapping[str, Any] | None, channels: int, device: torch.device | str = "cpu", vae: str | None = None
) -> Paint:
    """As `decoder`, always 8-bit pictures: of arrays previews, as `unitgain.data.preview.pictures_of` has them."""
    decode, opened = decoder(encoder, channels, device, vae), encoder_from_dict(encoder or {})
    return lambda images: pictures_of(decode(images), opened)


def painter_of(denoiser: Denoiser | Guided, vae: str | None = None) -> Paint:
    """`painter` of what a network draws, on its device."""
    device = next(denoiser.parameters()).device
    return painter(denoiser.encoder, denoiser.spec.channels, device, vae)


def draws_arrays(encoder: Mapping[str, Any] | None) -> bool:
    """Whether a network draws signals, fields or volumes rather than pictures, by its encoder."""
    return isinstance(encoder_from_dict(encoder or {}), ArrayEncoder)


def require_pictures(encoder: Mapping[str, Any] | None, what: str) -> None:
    """Check that a network draws pictures.

    Args:
        encoder: of the network.
        what: needs them, for the error.

    Raises:
        ValueError: if it draws arrays.
    """
    if draws_arrays(encoder):
        raise ValueError(f"{what}: only of pictures, and the network draws arrays (signals, fields or volumes)")
