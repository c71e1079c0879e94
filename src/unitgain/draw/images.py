"""Images of seeds in memory: a batch at a time, or all in one call."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from unitgain.arch.values import Conditions
from unitgain.classes import Class
from unitgain.data.images import to_image
from unitgain.denoiser import ClassLabel, Denoiser
from unitgain.draw.decode import Decode, decoder, decoder_of, painter, painter_of, require_pictures
from unitgain.draw.picture import FromPixels, from_picture
from unitgain.draw.preview import Preview
from unitgain.draw.rows import rows_of
from unitgain.draw.settings import DrawSettings, FromPicture
from unitgain.guide import Guided
from unitgain.sample.generation import AnySeed, Step, generate
from unitgain.sample.seeds import Seed

DEFAULTS = DrawSettings()


def draw_images(
    denoiser: Denoiser | Guided,
    decode: Decode,
    seeds: Sequence[AnySeed],
    settings: DrawSettings,
    *,
    label: Class | Sequence[Class] | None = None,
    conditions: Conditions | None = None,
    batch: int = 64,
    on_images: Callable[[float], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[tuple[Sequence[AnySeed], ClassLabel, Tensor]]:
    """Draw and decode.

    Args:
        denoiser: guided as `settings` say, as from `guide_by`.
        decode: as from `decoder`.
        seeds: one per image.
        settings: sampler and class; the guidance is that of `denoiser`.
        label: class of all images, or one per seed; by default as the settings say.
        conditions: one per seed; by default those of the rows that the settings name.
        batch: images in flight at a time; does not change them.
        on_images: as in `unitgain.sample.generate`.
        on_step: likewise.

    Yields:
        Seeds, labels (int64 `[n]`, None for an unconditional network) and 8-bit pictures `[n, C, H, W]` on the CPU,
        or whatever `decode` makes, with the pixels in their place that settings `from_picture` keep.
    """
    start = settings.sampler if isinstance(settings.sampler, FromPixels) else None
    label = settings.labels(seeds) if label is None else label
    told, rows = conditions, rows_of(settings)
    if told is None and rows is not None:
        told = partial(rows.of, spec=denoiser.spec, names=denoiser.classes, label=label is None)
    for part, labels, images in generate(
        denoiser,
        seeds,
        settings.sigmas(),
        sampler=settings.sampler,
        label=label,
        conditions=told,
        batch=batch,
        on_images=on_images,
        on_step=on_step,
    ):
        pixels = decode(images)
        yield part, labels, pixels if start is None else start.finish(pixels)


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
    require_pictures(denoiser.encoder, "pixels (to_arrays has the numbers)")
    return decoder(denoiser.encoder, denoiser.spec.channels, samples.device, vae)(samples)


def to_arrays(denoiser: Denoiser | Guided, samples: Tensor) -> Tensor:
    """What a network draws as the numbers of its data on the CPU, `[N, C, *size]`: of signals, fields and volumes.

    Args:
        denoiser: says how arrays became what it sees.
        samples: `[N, C, *size]`, on its device.

    Raises:
        ValueError: if they do not fit the network.
    """
    return decoder(denoiser.encoder, denoiser.spec.channels, samples.device)(samples)


def to_images(denoiser: Denoiser | Guided, samples: Tensor, vae: str | None = None) -> list[Image.Image]:
    """As `to_pixels`, as pictures of Pillow; of arrays previews: waveforms, slices, channels side by side."""
    return [to_image(one) for one in painter(denoiser.encoder, denoiser.spec.channels, samples.device, vae)(samples)]


def sample_pixels(
    denoiser: Denoiser | Guided,
    seeds: Sequence[Seed],
    *,
    label: Class | Sequence[Class] | None = None,
    conditions: Conditions | None = None,
    settings: DrawSettings = DEFAULTS,
    start: FromPicture | None = None,
    batch: int = 64,
    on_step: Callable[[Preview], None] | None = None,
) -> UInt8[Tensor, "n channels height width"]:
    """The images of seeds as 8-bit pixels `[N, C, H, W]`; an image depends on its seed alone.

    Args:
        denoiser: in evaluation mode, guided or not.
        seeds: one per image; points between two of them too, as from `unitgain.interpolate`.
        label: class of all images, or one per seed, by number or name; by default that of the settings, or each seed
            draws its own.
        conditions: what else the network is told, one per seed; by default those of the rows that the settings name.
        settings: sampler, steps, class and VAE; the guidance is that of `denoiser`.
        start: picture to draw from, and what of it to keep.
        batch: images in flight at a time; does not change them.
        on_step: called after each evaluation of the network with a preview of the images in flight, which notebooks
            show: `on_step=display(display_id=True).update`.

    Raises:
        ValueError: as `generate`, `to_pixels` and `from_picture`.
    """
    require_pictures(denoiser.encoder, "pixels (sample_arrays draws the numbers)")
    return _draw(
        denoiser, seeds, decoder_of(denoiser, settings.vae), label, conditions, settings, start, batch, on_step
    )


def sample_arrays(
    denoiser: Denoiser | Guided,
    seeds: Sequence[Seed],
    *,
    label: Class | Sequence[Class] | None = None,
    conditions: Conditions | None = None,
    settings: DrawSettings = DEFAULTS,
    batch: int = 64,
    on_step: Callable[[Preview], None] | None = None,
) -> Shaped[Tensor, "n channels *size"]:
    """Signals, fields or volumes of seeds, `[N, C, *size]` on the CPU, as the numbers of the data.

    Arguments and errors as for `sample_pixels`; a network of pictures gives their 8-bit pixels.
    """
    return _draw(denoiser, seeds, decoder_of(denoiser, settings.vae), label, conditions, settings, None, batch, on_step)


def _draw(
    denoiser: Denoiser | Guided,
    seeds: Sequence[Seed],
    decode: Decode,
    label: Class | Sequence[Class] | None,
    conditions: Conditions | None,
    settings: DrawSettings,
    start: FromPicture | None,
    batch: int,
    on_step: Callable[[Preview], None] | None,
) -> Tensor:
    if not len(seeds):
        raise ValueError("no seeds, so nothing to draw: give one or more whole numbers")
    if start is not None:
        settings = from_picture(denoiser, start, settings)
    paint = painter_of(denoiser, settings.vae)
    watch = None if on_step is None else lambda step: on_step(Preview(step, paint, denoiser.sigma_data))
    parts = draw_images(
        denoiser, decode, seeds, settings, label=label, conditions=conditions, batch=batch, on_step=watch
    )
    return torch.cat([pixels for *_, pixels in parts])


def sample_images(
    denoiser: Denoiser | Guided,
    seeds: Sequence[Seed],
    *,
    label: Class | Sequence[Class] | None = None,
    conditions: Conditions | None = None,
    settings: DrawSettings = DEFAULTS,
    start: FromPicture | None = None,
    batch: int = 64,
    on_step: Callable[[Preview], None] | None = None,
) -> list[Image.Image]:
    """As `sample_pixels`, as pictures of Pillow; of arrays previews: waveforms, slices, channels side by side."""
    paint = painter_of(denoiser, settings.vae)
    return [to_image(one) for one in _draw(denoiser, seeds, paint, label, conditions, settings, start, batch, on_step)]
