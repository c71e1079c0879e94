"""Images that move: from seed to seed, and from noise to image; as a GIF, a WebP, or a strip of pictures."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unitgain.data.images import grid
from unitgain.denoiser import Denoiser
from unitgain.draw.decode import draws_arrays, painter_of
from unitgain.draw.images import draw_images
from unitgain.draw.picture import picture_shape
from unitgain.draw.preview import Preview, beside
from unitgain.draw.settings import Animation, DrawSettings
from unitgain.files import atomic, check_file
from unitgain.guide import Guided
from unitgain.sample import Step, interpolate
from unitgain.sample.seeds import as_seeds
from unitgain.text import evenly

DEFAULTS = Animation()
FRAMES = 16  # from one seed to the next
HOLD = 1.5  # seconds that the end of a path is looked at
MOST_PIXELS = 2**24  # of a frame: GIF and WebP hold all of them in memory
FORMATS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG"}


def write_interpolation(
    denoiser: Denoiser | Guided,
    seeds: Sequence[int],
    out: Path,
    settings: DrawSettings,
    animation: Animation,
    *,
    batch: int = 64,
    on_images: Callable[[float], None] | None = None,
) -> int:
    """Write the images on the way from seed to seed.

    Args:
        denoiser: in evaluation mode, guided or not; its encoder says what becomes of what it draws.
        seeds: two or more; with the first again at the end, the animation is a loop.
        out: a file that ends in .gif, .webp or .png, which is replaced; .png is one row of pictures per two seeds.
        settings: as for single images; without a class, it goes from that of one seed to that of the next.
        animation: how many frames, and how fast.
        batch: images in flight at a time; does not change them.
        on_images: as in `unitgain.sample.generate`.

    Returns:
        Number of frames.

    Raises:
        ValueError: if there are fewer than two seeds or frames, `out` has another ending or is a folder, or a strip is
            to have a speed.
        OSError: if it cannot be written.
    """
    kind = _kind(out := Path(out), animation)
    frames = animation.frames or FRAMES
    seeds = as_seeds(seeds)
    points = interpolate(seeds, frames)
    decode = painter_of(denoiser, settings.vae)
    drawn = draw_images(denoiser, decode, points, settings, batch=batch, on_images=on_images)
    pixels = torch.cat([images for *_, images in drawn])
    if kind == "PNG":
        legs = [pixels[i * (frames - 1) : i * (frames - 1) + frames] for i in range(len(seeds) - 1)]
        _save([grid(torch.cat(legs), frames)], out, kind, animation)
    else:
        _save([grid(one[None]) for one in pixels], out, kind, animation)
    return len(points)


def write_path(
    denoiser: Denoiser | Guided,
    seeds: Sequence[int],
    out: Path,
    settings: DrawSettings,
    animation: Animation,
    *,
    batch: int = 64,
    on_images: Callable[[float], None] | None = None,
) -> int:
    """Write the way of images out of noise: what the sampler has, and beside it what the network sees in that.

    Of signals, fields and volumes it is the way of their previews: waveforms, slices, channels side by side.

    A frame per noise level at which the network is asked: the noisy images, scaled to the standard deviation of the
    data, and D(x; sigma); in the end the images. As .png they lie one above the other, time from left to right.

    Arguments as for `write_interpolation`: but a seed is an image, each draws its own class where none is named, and by
    default there are as many frames as noise levels.

    Returns:
        Number of frames.

    Raises:
        ValueError: if there are no seeds, or a frame would be too large; and as `write_interpolation` of `out`.
        OSError: if it cannot be written.
    """
    _kind(out := Path(out), animation)
    if not (seeds := as_seeds(seeds)):
        raise ValueError("no seeds, so no way to show: give one or more whole numbers")
    height, width = _frame_size(denoiser, settings)
    if 2 * len(seeds) * height * width > MOST_PIXELS:
        size = f"{len(seeds)} images of {width}x{height}"
        raise ValueError(f"{size} are too much for the frames of an animation: name fewer seeds")
    parts = list(_paths(denoiser, seeds, settings, animation.frames, batch, on_images))
    left, right = ([torch.cat(frame) for frame in zip(*batches, strict=True)] for batches in zip(*parts, strict=True))
    save_path(left, right, out, animation)
    return len(left)


def _frame_size(denoiser: Denoiser | Guided, settings: DrawSettings) -> tuple[int, int]:
    """Height and width of the picture of a sample."""
    if not draws_arrays(denoiser.encoder):
        return picture_shape(denoiser, settings)[1:]
    nothing = torch.zeros(1, denoiser.spec.channels, *denoiser.spec.size, device=next(denoiser.parameters()).device)
    height, width = painter_of(denoiser, settings.vae)(nothing).shape[2:]
    return height, width


def save_path(noisy: Sequence[Tensor], denoised: Sequence[Tensor], out: Path, animation: Animation) -> None:
    """Write the way of images out of noise that was drawn.

    Args:
        noisy: uint8 `[N, C, H, W]` for each frame.
        denoised: likewise.
        out: as for `write_path`.
        animation: how fast.

    Raises:
        ValueError: as `write_interpolation` of `out`.
        OSError: if it cannot be written.
    """
    kind = _kind(out := Path(out), animation)
    if kind == "PNG":
        rows = [torch.stack(list(one)) for one in (noisy, denoised)]  # [frames, n, c, h, w] each
        strip = torch.stack(rows, 1).permute(2, 1, 0, 3, 4, 5).flatten(0, 2)
        _save([grid(strip, len(noisy))], out, kind, animation)
    else:
        frames = [beside(grid(a), grid(b)) for a, b in zip(noisy, denoised, strict=True)]
        _save(frames, out, kind, animation, hold=HOLD)


def _paths(
    denoiser: Denoiser | Guided,
    seeds: Sequence[int],
    settings: DrawSettings,
    frames: int | None,
    batch: int,
    on_images: Callable[[float], None] | None,
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Noisy and denoised images by frame, of a batch at a time; at the end of both the images."""
    decode, steps = painter_of(denoiser, settings.vae), list[Step]()
    for *_, end in draw_images(
        denoiser,
        decode,
        seeds,
        settings,
        batch=batch,
        on_images=on_images,
        on_step=lambda step: keep_step(steps, step),
    ):
        *before, _ = evenly(range(len(steps) + 1), frames or len(steps) + 1)  # the images come last
        previews = [Preview(steps[number], decode, denoiser.sigma_data) for number in before]
        yield [*(one.noisy() for one in previews), end], [*(one.denoised() for one in previews), end]
        steps.clear()


def keep_step(steps: list[Step], step: Step) -> None:
    """Keep the last evaluation at each noise level below all others so far."""
    if steps and step.sigma == steps[-1].sigma:
        steps[-1] = step
    elif not steps or step.sigma < steps[-1].sigma:
        steps.append(step)


def _kind(out: Path, animation: Animation) -> str:
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"{out} must end in {', '.join(FORMATS)}: an animation, or for .png a strip of pictures")
    check_file(out, "path.gif")
    if out.suffix.lower() == ".png" and animation.fps != DEFAULTS.fps:
        raise ValueError(f"{out} is a strip of pictures, which has no speed: leave out fps (--fps), or name a .gif")
    return FORMATS[out.suffix.lower()]


def _save(frames: Sequence[Image.Image], out: Path, kind: str, animation: Animation, hold: float = 0.0) -> None:
    durations = [round(1000 / animation.fps)] * len(frames)
    durations[-1] += round(1000 * hold)
    with atomic(out) as temporary:
        if kind == "PNG":
            frames[0].save(temporary, format=kind)
        else:
            lossless = {"lossless": True} if kind == "WEBP" else {}
            more = list(frames[1:])
            frames[0].save(
                temporary, format=kind, save_all=True, append_images=more, duration=durations, loop=0, **lossless
            )
