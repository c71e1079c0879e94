"""What is no picture as pictures to look at: waveforms of signals, three slices of volumes, channels side by side."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from unitgain.data.encoder import ArrayEncoder, Encoder

SPREAD, LOUDEST = 2.5, 5.0  # standard deviations around the mean that are shown: as grey, as the height of a wave
LOUDER = 2.0**20  # times that, at most
CHANNELS = 4  # shown, at most
WAVE = (48, 192)  # pixels of a waveform
PAPER, FAINT, INK = 255, 200, 40
LONGEST = 256  # pixels of a slice; larger ones are made smaller
SHORTEST = 48  # of its longest side; smaller ones are made larger by whole numbers, as near to it as these go


def pictures_of(values: Tensor, encoder: Encoder) -> UInt8[Tensor, "n c h w"]:
    """Arrays `[N, C, *size]` as pictures on the CPU; 8-bit images of 1 or 3 channels as they are.

    Of signals each channel is a waveform, one below the other; of volumes it is the three slices through its middle,
    across the first, the second and the third axis, side by side; of fields it is a grey picture. Grey is the mean of
    the channel over the data, black and white are 2.5 of its standard deviations off that. A waveform goes to 5 of
    them above and below, so that signals beside each other are to one scale; one that goes further, as heartbeats do,
    to 10, 20, ..., with faint lines at 5. At most 4 channels are shown. What is small is made larger, up to about 48
    pixels a side.

    Args:
        values: as `encoder.decode` gives them.
        encoder: knows mean and standard deviation of the data.
    """
    if not isinstance(encoder, ArrayEncoder):
        return values.cpu()
    shown = min(values.shape[1], CHANNELS)
    mean, std = (
        torch.tensor(numbers[:shown]).reshape(1, -1, *[1] * (values.ndim - 2))
        for numbers in (encoder.mean, encoder.std)
    )
    deviations = (values[:, :shown].cpu().float() - mean) / std
    if values.ndim == 3:
        return _waves(deviations)
    level = deviations / (2 * SPREAD) + 0.5  # 0 to 1
    planes = _slices(level) if values.ndim == 5 else level
    grey = (planes.clamp(0, 1) * 255).round().to(torch.uint8)
    times = max(SHORTEST // max(values.shape[2:]), 1)
    grey = grey.repeat_interleave(times, -1).repeat_interleave(times, -2)
    longest = max(grey.shape[-2:])
    if longest > LONGEST:
        size = [max(round(side * LONGEST / longest), 1) for side in grey.shape[-2:]]
        grey = functional.interpolate(grey.float(), size, mode="area").round().to(torch.uint8)
    return torch.cat(list(grey.split(1, 1)), -1)


def _waves(signals: Tensor) -> UInt8[Tensor, "n 1 h w"]:
    """Each channel of signals `[N, C, L]`, in standard deviations, as a waveform: a column of pixels from the least to
    the largest value of its samples and the first that follows.
    """
    (height, width), length = WAVE, signals.shape[2]
    columns = min(width, length)
    farthest = (signals.abs().amax(2, keepdim=True) / LOUDEST).nan_to_num(1.0).clamp(1, LOUDER)
    reach = LOUDEST * torch.exp2(torch.log2(farthest).ceil())  # [N, C, 1]
    edges = torch.linspace(0, length, columns + 1).round().long()
    most = int((edges[1:] - edges[:-1]).max()) + 1
    samples = torch.minimum(edges[:-1, None] + torch.arange(most), edges[1:, None]).clamp(max=length - 1)
    places = (0.5 - signals / (2 * reach)).clamp(0, 1)[:, :, samples] * (height - 1)
    top, bottom = places.amin(3).floor()[:, :, None], places.amax(3).ceil()[:, :, None]
    rows = torch.arange(height)
    marks = torch.stack([0.5 - LOUDEST / (2 * reach), 0.5 + LOUDEST / (2 * reach)]) * (height - 1)
    paper = torch.where(((rows == marks.round()) & (reach > LOUDEST)).any(0), FAINT, PAPER)[..., None]
    picture = torch.where((rows[:, None] >= top) & (rows[:, None] <= bottom), INK, paper).to(torch.uint8)
    return picture.flatten(1, 2)[:, None].repeat_interleave(max(width // columns, 1), 3)


def _slices(level: Tensor) -> Tensor:
    """The slices through the middle of volumes `[N, C, D, H, W]`, side by side: `[N, C, max(D, H), 2 W + H]`."""
    depth, height, width = (side // 2 for side in level.shape[2:])
    planes = [level[:, :, depth], level[:, :, :, height], level[..., width]]
    tall = max(plane.shape[2] for plane in planes)
    return torch.cat([functional.pad(plane, (0, 0, 0, tall - plane.shape[2])) for plane in planes], -1)
