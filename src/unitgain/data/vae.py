"""A diffusers `AutoencoderKL`: from pixels to latents and back.

The official networks take the VAE of Stable Diffusion with images in [0, 1] where diffusers has [-1, 1]; whatever is
meant for them must keep that, so it is the default here.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unitgain.data.settings import PixelRange
from unitgain.extras import require

DECODED_AT_ONCE = 8  # the decoder's activations are large


@functools.lru_cache(maxsize=1)
def load_vae(name: str, device: torch.device | str = "cpu") -> Any:
    """The VAE of a local folder or a Hub id, in float32, ready to evaluate.

    Raises:
        ImportError: if diffusers is missing, naming the extra that brings it.
        ValueError: if there is no such VAE, or it cannot be fetched.
    """
    diffusers = require("diffusers", extra="latent")
    if Path(name).is_dir() and not (Path(name) / "config.json").exists() and (Path(name) / "vae").is_dir():
        name = str(Path(name) / "vae")  # a whole pipeline
    try:
        vae = diffusers.AutoencoderKL.from_pretrained(name, torch_dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load the VAE {name!r}: give the folder of a diffusers AutoencoderKL (with config.json), or its id "
            f"on the Hub when there is a network; {error}"
        ) from error
    return vae.to(device).eval().requires_grad_(False)


def downsampling(vae: Any) -> int:
    """Edge of the pixels over edge of the latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.inference_mode()
def vae_encode(vae: Any, pixels: UInt8[Tensor, "n c h w"], scale: PixelRange = "0..1") -> Float[Tensor, "n c2 h2 w2"]:
    """Means, then standard deviations, of the latents of 8-bit images, along the channels; float32, not scaled."""
    images = pixels.to(vae.device).float() / 255
    if scale == "-1..1":
        images = 2 * images - 1
    distribution = vae.encode(images).latent_dist
    return torch.cat([distribution.mean, distribution.std], dim=1).float()


@torch.inference_mode()
def vae_decode(vae: Any, latents: Float[Tensor, "n c h w"], scale: PixelRange = "0..1") -> UInt8[Tensor, "n c2 h2 w2"]:
    """8-bit images of latents, rounded to the nearest and clipped, on the device of `latents`."""
    parts = [vae.decode(part).sample.float() for part in latents.to(vae.device).split(DECODED_AT_ONCE)]
    images = torch.cat(parts)
    if scale == "-1..1":
        images = (images + 1) / 2
    return (images * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8).to(latents.device)
