"""The papers' recipes, scaled down together: every run of the evidence, and how large everything is."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from sets import SETS, STYLES

from unitgain.arch.conditions import Vector
from unitgain.draw.settings import DrawSettings
from unitgain.infer import fastest_precision
from unitgain.recipe import Recipe
from unitgain.recipes import recipe
from unitgain.sample import SAMPLERS

PAPER_IMAGES = 2**31  # of EDM2's configs
PAPER_WIDTH = 192
PAPER_T_REF = 70_000 * 2048  # in images

EDM2 = tuple(f"edm2-img512-config-{config}" for config in "abcdefg")

PLUS = tuple(
    f"edm2plus-img64-config-{config}"
    for config in (
        "a",
        "g-bottleneck",
        "g-bottleneck-ms",
        "b",
        "c",
        "d",
        "d-e4",
        "e",
        "e-k7",
        "f",
        "g",
        "f-bottleneck",
        "f-bottleneck-ms",
    )
)

A, B, G = EDM2[0], EDM2[1], EDM2[-1]
STAR, F_STAR = PLUS[1], PLUS[11]

GROWING = (*EDM2[2:5], G)  # whose magnitudes are told

RATES = {**dict.fromkeys(EDM2[:3], (0.004, 0.002, 0.008)), **dict.fromkeys(EDM2[3:], (0.04, 0.02, 0.08))}

SEEDS = (0, 1)

HALF = "unconditional, half"  # the guide of the claim on guidance
DROPOUT = "label dropout"

TRACKED = (0.03, 0.13, 0.20)

PIXELS = recipe("edm2-img64-s").loss  # noise levels of the paper's pixels, which the configs were not printed with

OF_NETWORK = ("label_dim", "num_blocks", "attn_resolutions")  # what may be changed besides the recipe

COMMON: dict[str, Any] = {"latents": False, "scores": ()}  # of all recipes

SAMPLING = DrawSettings(sampler=SAMPLERS["dpmpp_2m"](), steps=10, sigma_min=0.01, sigma_max=40.0)

HEUN = DrawSettings(sampler=SAMPLERS["heun"](), steps=18, sigma_min=0.01, sigma_max=40.0)

PICTURE_SAMPLING = DrawSettings(dtype="auto")


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        width: base channels that stand for the papers' 192.
        images: of a whole run, for the papers' 2^31.
        batch: images per step.
        sweep: images drawn per EMA length.
        score: images drawn for a score.
        lengths: of a sweep.
        few: of those, for what is only chosen by its length (`coarse`).
        weights: of guidance.
        sampling: how images are drawn.
        heun: likewise, to see what the solver does.
        data: set of the claims.
        pictures: sets that pictures are made of.
        picture_width: base channels of their networks.
        picture_images: of their runs.
        styled_images: likewise, of sets of which styles are known.
        measured: images drawn to choose the EMA length of pictures.
        styled_measured: likewise, of sets of which styles are known.
        picture_sampling: how pictures are drawn.
    """

    width: int = 16
    images: int = 2**16
    batch: int = 16
    sweep: int = 1000
    score: int = 3000
    lengths: tuple[float, ...] = (0.02, 0.04, 0.07, 0.10, 0.14, 0.19, 0.24)
    few: tuple[float, ...] = (0.04, 0.10)
    weights: tuple[float, ...] = (1.25, 1.5, 2.0)
    sampling: DrawSettings = SAMPLING
    heun: DrawSettings = HEUN
    data: str = "fashion16"
    pictures: tuple[str, ...] = ("fashion32", "emoji32", "animals32", "food32")
    picture_width: int = 32
    picture_images: int = 2**18
    styled_images: int = 3 * 2**16
    measured: int = 1000
    styled_measured: int = 256
    picture_sampling: DrawSettings = PICTURE_SAMPLING

    @property
    def coarse(self) -> "Scale":
        """The same with few lengths."""
        return dataclasses.replace(self, lengths=self.few)

    @property
    def factor(self) -> float:
        """By which what the papers count in images is divided."""
        return PAPER_IMAGES / self.images


@dataclass(frozen=True)
class Run:
    """A training run, to be trained up to any number of images."""

    name: str
    recipe: Recipe
    data: str
    seed: int = 0
    snapshot_dtype: str = "float16"
    magnitudes_every: int = 0


@functools.cache
def config_run(
    name: str, lr: float, seed: int, scale: Scale, *, width: float = 1, label: str = "", **changes: Any
) -> Run:
    """A config of the papers at this scale.

    Args:
        name: of its recipe.
        lr: reference learning rate.
        seed: of the run.
        scale: of everything.
        width: times that of the scale.
        label: added to the name.
        changes: of the recipe; `label_dim`, `num_blocks` and `attn_resolutions` of its network.
    """
    paper = recipe(name)
    base = int(scale.width * width)
    settings_of_network: dict[str, Any] = {
        "label_dim": 10,
        "num_blocks": 1,
        "attn_resolutions": (16, 8) if 32 in paper.network.attn_resolutions else (8,),
        **{key: changes.pop(key) for key in OF_NETWORK if key in changes},
    }
    network = paper.network.replace(
        resolution=16,
        channels=1,
        model_channels=base * paper.network.model_channels // PAPER_WIDTH,
        channel_mult=(1, 2),
        channels_per_head=min(base, 16),
        **settings_of_network,
    )
    settings: dict[str, Any] = {
        "lr": lr,
        "loss": PIXELS if name in EDM2[1:] else paper.loss,
        "t_ref": PAPER_T_REF / scale.factor / scale.batch if paper.t_ref else 0,
        "ema": Recipe.ema,
        "ema_half_life": round(paper.ema_half_life / scale.factor),
        "snapshot_every": max(round(paper.snapshot_every / scale.factor), scale.batch),
    }
    scaled = paper.replace(
        network=network,
        precision="float32",
        duration=scale.images,
        rampup=round(paper.rampup / scale.factor),
        **{**COMMON, "batch": scale.batch, **settings, **changes},
    )
    every = scale.images // 64 if name in GROWING else 0
    return Run(f"{name}{label}-lr{lr:g}-seed{seed}", scaled, scale.data, seed, magnitudes_every=every)


def picture_images(data: str, scale: Scale) -> tuple[int, int]:
    """Images that the network for pictures of a set is trained for, and those drawn to choose how it draws."""
    if SETS[data].styled:
        return scale.styled_images, scale.styled_measured
    return scale.picture_images, scale.measured


def picture_run(data: str, scale: Scale) -> Run:
    """A network for pictures: config G, three levels; told the style, where it is known."""
    paper, (images, _) = recipe(G), picture_images(data, scale)
    network = paper.network.replace(
        resolution=32,
        channels=SETS[data].channels,
        label_dim=SETS[data].label_dim,
        conditions=(Vector(name="style", dim=len(STYLES)),) if SETS[data].styled else (),
        model_channels=scale.picture_width,
        channel_mult=(1, 2, 2),
        num_blocks=1,
        attn_resolutions=(8,),
        channels_per_head=min(scale.picture_width, 32),
    )
    scaled = paper.replace(
        network=network,
        precision=fastest_precision("cpu"),
        loss=PIXELS,
        lr=0.02,
        duration=images,
        t_ref=images / 15 / scale.batch,
        rampup=images // 200,
        snapshot_every=images // 64,
        **{**COMMON, "batch": scale.batch},
    )
    return Run(f"pictures-{data}", scaled, data)


@dataclass(frozen=True)
class Pair:
    """What is guided, and by what.

    Attributes:
        main: is guided.
        guide: guides; None for the main network without its label.
        nimg: images that the guide was trained for.
    """

    main: Run
    guide: Run | None = None
    nimg: int = 0


def pairs(main: Run, scale: Scale) -> dict[str, Pair]:
    """Ways to guide a run of G: by unconditional networks of some widths, by a worse version, by itself."""
    of_g = functools.partial(config_run, G, main.recipe.lr, main.seed, scale)
    found = {
        name: Pair(main, of_g(width=width, label=f"-uncond{width:g}", label_dim=0), scale.images // 2)
        for name, width in {HALF: 0.5, "unconditional": 1, "unconditional, twice": 2}.items()
    }
    found["autoguidance"] = Pair(main, of_g(width=0.5, label="-half"), scale.images // 8)
    found[DROPOUT] = Pair(of_g(label="-dropout", label_dropout=0.1))
    return found


def rate_runs(scale: Scale) -> dict[str, list[list[Run]]]:
    """Runs of G by what is varied, from low to high, of each setting one per seed."""
    middle = RATES[G][0]
    t_ref = PAPER_T_REF / scale.factor / scale.batch
    factors = {0.5: "-tref0.5", 1.0: "", 2.0: "-tref2"}
    return {
        "lr": [[config_run(G, lr, seed, scale) for seed in SEEDS] for lr in sorted(RATES[G])],
        "t_ref": [
            [config_run(G, middle, seed, scale, label=label, t_ref=t_ref * factor) for seed in SEEDS]
            for factor, label in factors.items()
        ],
    }


def tracked_run(scale: Scale) -> tuple[Run, Run]:
    """A run, and the same once more with other lengths tracked."""
    run = config_run(G, RATES[G][0], 0, scale)
    again = run.recipe.replace(ema=TRACKED, snapshot_every=scale.images // 8)
    return run, dataclasses.replace(run, name=f"{run.name}-tracked", recipe=again, snapshot_dtype="float32")
