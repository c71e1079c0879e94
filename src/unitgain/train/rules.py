"""The papers' rules for sizes and durations that no paper has: learning rate, decay, batch, snapshots, duration."""

import math

from unitgain.arch import NetworkSpec
from unitgain.arch.configs import edm2, edm2plus
from unitgain.recipe import LATENTS, MIMG, PIXELS, Precision, Recipe
from unitgain.size import Size

PLANNED = "planned"  # name of a recipe that is nobody's but this run's
LONGEST = 2**31  # images of the papers' longest runs (2147.5 Mimg, Table 6)
PASSES = LONGEST / 1_281_167  # over ImageNet in these: 1676
FEWEST = 2**15  # images, 1000 steps of the smallest batch; below that nothing is learned of any number of pictures
LARGEST_BATCH, SMALLEST_BATCH = 2048, 32
DECAY = 70_000 * 2048 / LONGEST  # t_ref as a part of the steps, Table 6: 1/15
LEAST_T_REF = 300  # steps; the digits'
RAMPUP = 10 * MIMG / LONGEST  # as a part of the duration, Table 6: 0.5 %
LEAST_RAMPUP = 60  # steps; about those of the small recipes
SNAPSHOTS = 32  # "a few dozen": with 8 post-hoc EMA is visibly less exact (docs/posthoc-ema.md)
LARGEST_RATE = 0.02  # the digits'
LABEL_DROPOUT = 0.1
LEVELS, SMALLEST_LEVEL = 4, 4  # as the papers' networks; their coarsest level is 8x8, that of the digits 4x4
ATTENTION = 16**2  # positions from which on levels attend: those of 16x16 (EDM2, config B)
HEAD = 64  # channels per head: the papers'


def carried(pictures: int) -> int:
    """Images that training on so many pictures is worth: as many passes as the papers make over ImageNet.

    That is 1676 (EDM2, Table 6: 2147.5 million images of 1.28 million pictures), at least 32,768 images in all and at
    most the papers' longest run.
    """
    return int(min(max(pictures * PASSES, FEWEST), LONGEST))


def batch_for(images: int) -> int:
    """Images per step in a run of so many images: a power of two, 32 to the papers' 2048.

    It grows with the root of the duration and meets the papers' at theirs, so that a short run has steps enough: 32 at
    half a million images, 2048 at two billion.
    """
    exact = LARGEST_BATCH * math.sqrt(images / LONGEST)
    return 2 ** round(math.log2(min(max(exact, SMALLEST_BATCH), LARGEST_BATCH)))


def learning_rate(width: int) -> float:
    """alpha_ref of a network of this base width, to two digits: 0.012 sqrt(128 / width), at most 0.02.

    Table 6 within 6 % from XS (0.012 at 128 channels) to XXL (0.0065 at 448). It does not depend on the batch: weights
    have unit magnitude and Adam's steps none but this one, so a short run would not get far with less; the noise of
    small batches is met by the decay, which begins as early in the run as the papers' does, and by the averages.
    """
    return float(f"{min(0.012 * math.sqrt(128 / width), LARGEST_RATE):.2g}")


def network_for(shape: tuple[int, ...], label_dim: int, width: int, num_blocks: int, depthwise: bool) -> NetworkSpec:
    """A network of either paper for images of a shape.

    Args:
        shape: channels, then one to three sides of the images; what does not halve at each level is padded. Levels of
            up to 256 positions have attention: from 16x16 on, a length of 256, or 6x6x6.
        label_dim: number of classes; 0 for none.
        width: channels of the finest level; the others have 2, 3 and 4 times as many, as in the papers.
        num_blocks: per level.
        depthwise: EDM2+ (config G*), rather than EDM2 (config G).
    """
    channels, *size = shape
    levels = 1
    while levels < LEVELS and math.ceil(min(size) / 2**levels) >= SMALLEST_LEVEL:
        levels += 1
    base = edm2plus("xs") if depthwise else edm2("xs")
    spec = base.replace(
        resolution=tuple(size),
        channels=channels,
        label_dim=label_dim,
        model_channels=width,
        channel_mult=tuple(range(1, levels + 1)),
        num_blocks=num_blocks,
        attn_resolutions=(),
        channels_per_head=1,
        dropout=0.1 if width >= 256 else 0.0,  # Table 6: from M on
    )
    attention = tuple(max(sides) for sides in spec.level_sizes if math.prod(sides) <= ATTENTION)
    return spec.replace(attn_resolutions=attention, channels_per_head=head_of(spec))


def sized(network: NetworkSpec, *, width: int | None = None, resolution: Size | None = None) -> NetworkSpec:
    """A network of another base width or resolution: heads divide the new width, attention stays at its levels.

    Raises:
        ValueError: if there is none such.
    """
    if width is not None:
        wider = network.replace(model_channels=width, channels_per_head=1)
        network = wider.replace(channels_per_head=head_of(wider))
    if resolution is not None:
        levels = [level for level, side in enumerate(network.resolutions) if side in network.attn_resolutions]
        network = network.replace(resolution=resolution, attn_resolutions=())
        network = network.replace(attn_resolutions=tuple(network.resolutions[level] for level in levels))
    return network


def head_of(network: NetworkSpec) -> int:
    """Channels per head of attention that divide the width of every level: the papers' 64, or what is nearest to it.

    Not too few: one channel, normalized per head, is +-1.
    """
    common = math.gcd(*network.widths)
    heads = (head for head in range(1, common + 1) if common % head == 0)
    return min(heads, key=lambda head: abs(head - HEAD))


def recipe_for(
    network: NetworkSpec, images: int, *, latents: bool = False, precision: Precision = "float32", batch: int = 0
) -> Recipe:
    """The recipe of a network for a run of so many images.

    Noise levels, Adam, averages and u(sigma) are those of Table 6. The learning rate is `learning_rate`; it decays
    after a fifteenth of the steps, but not before 300, and rises over the first 0.5 % of the images, but over 60 steps.
    There are 32 snapshots. A tenth of the labels is dropped, so that the network can guide itself.

    Args:
        network: that is trained.
        images: of the run; rounded up to whole steps.
        latents: whether the data are latents.
        precision: of the network.
        batch: images per step; 0 for `batch_for`.
    """
    batch = batch or batch_for(images)
    steps = -(-images // batch)
    return Recipe(
        name=PLANNED,
        summary="planned for the data and the machine of the run",
        network=network,
        latents=latents,
        loss=LATENTS if latents else PIXELS,
        label_dropout=LABEL_DROPOUT if network.label_dim else 0.0,
        precision=precision,
        batch=batch,
        duration=images,
        lr=learning_rate(network.model_channels),
        t_ref=float(round(max(DECAY * steps, min(steps / 2, LEAST_T_REF)))),
        rampup=round(max(RAMPUP * steps, min(steps / 10, LEAST_RAMPUP))) * batch,
        snapshot_every=-(-steps // SNAPSHOTS) * batch,
    )
