"""Drawing that starts from a picture: the settings for it, from a file or what is in memory."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from unitgain.data.encoder import Encoder, LatentEncoder, encoder_from_dict
from unitgain.data.fit import Fit, ImageError, adm_crop, decode, flatten
from unitgain.data.images import from_image, to_image
from unitgain.data.vae import downsampling, load_vae, vae_encode
from unitgain.denoiser import Denoiser
from unitgain.draw.decode import require_pictures
from unitgain.draw.settings import DrawSettings, FromPicture
from unitgain.files import near
from unitgain.guide import Guided
from unitgain.sample.edit import FromImage, content_hash
from unitgain.trust import DEFAULT_LIMITS, read_regular

DEFAULTS = DrawSettings()
START = 2.0  # noise level that a picture starts with, in standard deviations of the data
RESAMPLE = 4  # steps of inpainting are made so often
GREY = 128  # what is under the mask while a VAE encodes the rest


@dataclass(frozen=True, eq=False)
class FromPixels(FromImage):
    """`FromImage` of a picture whose pixels are known, which those that the mask does not free are in the end.

    Args:
        pixels: the picture, uint8 `[C, H, W]`.
        free: bool `[H, W]`, which of its pixels are drawn anew; None for all.
    """

    name: ClassVar[str] = "from_pixels"

    pixels: Tensor = dataclasses.field(kw_only=True)
    free: Tensor | None = dataclasses.field(kw_only=True)

    def finish(self, pixels: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Decoded images with the pixels that are kept."""
        return pixels if self.free is None else torch.where(self.free, pixels, self.pixels)

    def to_json(self) -> dict[str, Any]:
        """As `Sampler` says; picture and mask by the hash of their pixels."""
        hashes = {"from": content_hash(self.pixels), "mask": None if self.free is None else content_hash(self.free)}
        return {**self.by.to_json(), **hashes, "resample": self.resample}


def from_picture(denoiser: Denoiser | Guided, start: FromPicture, settings: DrawSettings = DEFAULTS) -> DrawSettings:
    """The settings that draw from a picture: its noise level is their highest, and their sampler starts there.

    Args:
        denoiser: says how large a picture is, and how it becomes what the network sees; its VAE encodes it for latents.
        start: the picture, and what is done with it.
        settings: of all else.

    Raises:
        FileNotFoundError: if a file is not there.
        ImageError: if it is no picture, or a damaged one.
        ValueError: if sizes differ with a mask, the mask is not black and white, or a setting is out of range.
        ImportError: if there are latents and diffusers is missing.
    """
    if start.picture is None:
        raise ValueError("a picture to draw from is missing: name a file, or pass an image of Pillow or an array")
    require_pictures(denoiser.encoder, "drawing from a picture")
    encoder, device = _encoder(denoiser, settings), next(denoiser.parameters()).device
    channels, height, width = picture_shape(denoiser, settings)
    if settings.sigma_max != DEFAULTS.sigma_max and (start.mask is None or start.sigma_start is not None):
        raise ValueError(
            f"sigma_max = {settings.sigma_max:g}: drawing from a picture starts at the noise level sigma_start "
            f"(--sigma-start {start.sigma_start or settings.sigma_max:g}); say that alone, and leave out --sigma-max"
        )
    pixels = _picture(start.picture, channels, (height, width), fitted=start.mask is None)
    free = None if start.mask is None else _mask(start.mask, (height, width))
    sigma_start = start.sigma_start or (START * denoiser.sigma_data if free is None else settings.sigma_max)
    if not sigma_start > settings.sigma_min:
        raise ValueError(f"sigma_start = {sigma_start:g}: must be above sigma_min = {settings.sigma_min:g}")
    image, mask = _seen(encoder, pixels, free if start.sigma_start is None else None, device), None
    if free is not None:
        factor = height // denoiser.spec.size[0]
        mask = functional.max_pool2d(free[None].float(), factor)[0] > 0  # what is seen of a free pixel is free
        image = torch.where(mask.to(device), 0, image) if start.sigma_start is None else image
    turns = 1 if free is None else start.resample or RESAMPLE
    sampler = FromPixels(image, settings.sampler, mask, turns, pixels=pixels, free=free)
    return settings.replace(sampler=sampler, sigma_max=sigma_start)


def picture_shape(denoiser: Denoiser | Guided, settings: DrawSettings = DEFAULTS) -> tuple[int, int, int]:
    """Channels, height and width of the pictures of a network; those of latents are the VAE's.

    Raises:
        ValueError: if it draws no pictures, or the VAE is not to be had.
        ImportError: if there are latents and diffusers is missing.
    """
    encoder, spec = _encoder(denoiser, settings), denoiser.spec
    if spec.dims != 2:
        raise ValueError(f"the network draws data of {spec.dims} dimensions, and a picture has two")
    height, width = spec.size
    if not isinstance(encoder, LatentEncoder):
        return spec.channels, height, width
    vae = load_vae(encoder.vae, next(denoiser.parameters()).device)
    factor = downsampling(vae)
    return int(vae.config.in_channels), factor * height, factor * width


def _encoder(denoiser: Denoiser | Guided, settings: DrawSettings) -> Encoder:
    encoder = encoder_from_dict(denoiser.encoder or {})
    if settings.vae is None or not isinstance(encoder, LatentEncoder):
        return encoder
    return dataclasses.replace(encoder, vae=settings.vae)


def _seen(
    encoder: Encoder, pixels: UInt8[Tensor, "c h w"], hidden: Tensor | None, device: torch.device
) -> Float[Tensor, "c2 h2 w2"]:
    """The picture as the network sees it; of latents the mean, and nothing of what is hidden."""
    if not isinstance(encoder, LatentEncoder):
        return encoder.encode(pixels[None].to(device))[0]
    shown = pixels if hidden is None else torch.where(hidden, GREY, pixels).to(torch.uint8)
    mean = vae_encode(load_vae(encoder.vae, device), shown[None], encoder.pixels).chunk(2, dim=1)[0]
    return encoder.encode(torch.cat([mean, torch.zeros_like(mean)], dim=1).to(device))[0]


def _picture(source: Any, channels: int, size: tuple[int, int], fitted: bool) -> UInt8[Tensor, "c h w"]:
    """The picture with these channels and this height and width, to which it is cropped and scaled if it may be."""
    name, image = _open(source, "the picture")
    try:
        image = flatten(image, Fit(resolution=None, channels=3 if channels == 3 else 1))
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error
    if (image.height, image.width) != size:
        if not fitted:
            raise ValueError(_other_size(name, image, size))
        image = adm_crop(image, Fit(resolution=size, channels=3 if channels == 3 else 1))
    return from_image(image)


def _mask(source: Any, size: tuple[int, int]) -> Tensor:
    """The mask, `[H, W]`: true where it is white."""
    if isinstance(source, np.ndarray | Tensor) and str(source.dtype).removeprefix("torch.") == "bool":
        source = torch.as_tensor(source).to(torch.uint8) * 255
    name, image = _open(source, "the mask")
    if (image.height, image.width) != size:
        raise ValueError(_other_size(name, image, size))
    values = from_image(flatten(image, Fit(resolution=None, channels=1)))[0]
    between = int(((values > 0) & (values < 255)).sum())
    if between:
        raise ValueError(
            f"{name} has {between:,} pixels that are neither black (kept) nor white (drawn anew): make each one of "
            "them, and save it as PNG, for JPEG blurs edges"
        )
    if not values.any():
        raise ValueError(f"{name} is black everywhere, so that all is kept: make white what is to be drawn anew")
    return values > 0


def _open(source: Any, what: str) -> tuple[str, Image.Image]:
    """A picture and what to call it: of a file, an image of Pillow, an array `[H, W, C]`, a tensor `[C, H, W]`."""
    if isinstance(source, Image.Image):
        return what, source
    if isinstance(source, Tensor):
        source = source.cpu().numpy() if source.ndim == 2 else np.asarray(to_image(_bytes(source, what)))
    if isinstance(source, np.ndarray):
        array = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
            raise ValueError(f"{what} is {array.dtype} {array.shape}: expected uint8 [H, W] or [H, W, 3]")
        return what, Image.fromarray(array)
    try:
        return str(source), decode(read_regular(Path(source), DEFAULT_LIMITS), DEFAULT_LIMITS)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no picture at {source}{near(Path(source))}") from error
    except ImageError as error:
        raise ImageError(f"{source} {error}") from error


def _bytes(tensor: Tensor, what: str) -> Tensor:
    if tensor.dtype != torch.uint8 or tensor.ndim != 3:
        raise ValueError(f"{what} is {tensor.dtype} {tuple(tensor.shape)}: expected torch.uint8 [H, W] or [C, H, W]")
    return tensor


def _other_size(name: str, image: Image.Image, size: tuple[int, int]) -> str:
    return (
        f"{name} is {image.width}x{image.height}, and the network draws {size[1]}x{size[0]}: a picture with a mask "
        "must have that size, and its mask too; crop and scale both alike"
    )
