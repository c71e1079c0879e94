"""Recipes by name: those of both papers, and small ones for real users."""

import fnmatch
import math
from typing import TYPE_CHECKING

from unitgain.analysis.counts import recipe_costs
from unitgain.arch import NetworkSpec
from unitgain.arch.configs import edm2, edm2_configs, edm2plus, edm2plus_configs
from unitgain.loss import EDMLoss
from unitgain.recipe import LATENTS, MIMG, PIXELS, Recipe, Score
from unitgain.serial import suggest
from unitgain.text import brief

if TYPE_CHECKING:
    from unitgain.denoiser import Denoiser

MI = 2**20  # the papers count 2147.5 million images for 2048 of these

DIGITS = Recipe(
    name="digits",
    summary="8x8 handwritten digits of scikit-learn, ten classes; a minute or two on two CPU cores",
    network=NetworkSpec(
        resolution=8,
        channels=1,
        label_dim=10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(),  # the decoder's first block attends all the same; more of it buys nothing here
        channels_per_head=32,
    ),
    loss=EDMLoss(P_mean=-0.8, P_std=1.0),
    batch=64,
    duration=600 * 64,
    lr=0.02,
    t_ref=300,
    rampup=5_000,
    snapshot_every=20 * 64,
)

PIXELS32 = Recipe(
    name="pixels32",
    summary="your own 32x32 pixel images, EDM2+ on one GPU; a starting point, no score measured",
    network=edm2plus("xs").replace(resolution=32, label_dim=0, channel_mult=(1, 2, 2), num_blocks=2),
    loss=PIXELS,
    batch=512,
    duration=64 * MI,
    lr=0.012,
    t_ref=20_000,
    rampup=2 * MIMG,
    snapshot_every=MI,
)

PIXELS64 = PIXELS32.replace(
    name="pixels64",
    summary="your own 64x64 pixel images, EDM2+-XS on one GPU; a starting point, no score measured",
    network=edm2plus("xs").replace(label_dim=0),
    duration=128 * MI,
    t_ref=40_000,
    snapshot_every=2 * MI,
)

PIXELS64_MINI = Recipe(
    name="pixels64-mini",
    summary="your own 64x64 pixel images on a CPU, to see that everything works; examples/emoji shows what to expect",
    network=edm2("xs", channels=3).replace(
        label_dim=0,
        model_channels=16,
        channel_mult=(1, 2, 4, 6),
        num_blocks=1,
        attn_resolutions=(8,),
        channels_per_head=16,
    ),
    loss=PIXELS,
    batch=32,
    duration=500 * 32,
    lr=0.02,
    t_ref=250,
    rampup=2_000,
    snapshot_every=50 * 32,
)

# Table 6, by size: (duration in Mi images, learning rate, dropout). XXS, and XS at 64x64, are not in it.
IMG512 = {
    "xxs": (2048, 0.0170, 0.0),
    "xs": (2048, 0.0120, 0.0),
    "s": (2048, 0.0100, 0.0),
    "m": (2048, 0.0090, 0.1),
    "l": (1792, 0.0080, 0.1),
    "xl": (1280, 0.0070, 0.1),
    "xxl": (896, 0.0065, 0.1),
}
IMG64 = {
    "xs": (1024, 0.0120, 0.0),
    "s": (1024, 0.0100, 0.0),
    "m": (2048, 0.0090, 0.1),
    "l": (1024, 0.0080, 0.1),
    "xl": (640, 0.0070, 0.1),
}
# Table 6 and Table 5, by size: (value, EMA length) alone, (value, EMA length, weight) guided by the unconditional XS.
IMG512_FID = {
    "xs": ((3.53, 0.135), (2.91, 0.045, 1.4)),
    "s": ((2.56, 0.130), (2.23, 0.025, 1.4)),
    "m": ((2.25, 0.100), (2.01, 0.030, 1.2)),
    "l": ((2.06, 0.085), (1.88, 0.015, 1.2)),
    "xl": ((1.96, 0.085), (1.85, 0.020, 1.2)),
    "xxl": ((1.91, 0.070), (1.81, 0.015, 1.2)),
}
IMG512_DINO = {
    "xs": ((103.39, 0.200), (79.94, 0.150, 1.7)),
    "s": ((68.64, 0.190), (52.32, 0.085, 1.9)),
    "m": ((58.44, 0.155), (41.98, 0.015, 2.0)),
    "l": ((52.25, 0.155), (38.20, 0.035, 1.7)),
    "xl": ((45.96, 0.155), (35.67, 0.030, 1.7)),
    "xxl": ((42.84, 0.150), (33.09, 0.015, 1.7)),
}
IMG64_FID = {"s": (1.58, 0.075), "m": (1.43, 0.060), "l": (1.33, 0.040), "xl": (1.33, 0.040)}


# Autoguidance: a smaller network, trained for a shorter time, guides (Karras et al. 2024).
AUTOGUIDED = {
    "edm2-img512-s": (
        Score("FID", 1.34, 0.070, 2.10, "edm2-img512-xs", 128 * MI, 0.125),
        Score("FD-DINOv2", 36.67, 0.120, 2.45, "edm2-img512-xs", 128 * MI, 0.165),
    ),
    "edm2-img512-xxl": (
        Score("FID", 1.25, 0.075, 2.05, "edm2-img512-m", 256 * MI, 0.155),
        Score("FD-DINOv2", 24.18, 0.130, 2.30, "edm2-img512-m", 256 * MI, 0.205),
    ),
    "edm2-img512-s-uncond": (
        Score("FID", 3.86, 0.070, 2.85, "edm2-img512-xs-uncond", 128 * MI, 0.110),
        Score("FD-DINOv2", 90.39, 0.090, 2.90, "edm2-img512-xs-uncond", 128 * MI, 0.125),
    ),
    "edm2-img64-s": (
        Score("FID", 1.01, 0.045, 1.70, "edm2-img64-xs", 128 * MI, 0.110),
        Score("FD-DINOv2", 31.85, 0.105, 2.20, "edm2-img64-xs", 128 * MI, 0.175),
    ),
}
EDM2_CONFIG_FID = {"a": 8.00, "b": 7.24, "c": 6.96, "d": 3.75, "e": 3.02, "f": 2.71, "g": 2.56}  # Table 1
# A: what its exponential average amounts to at the end (Appendix B.1). B: Fig. 5b. C, D: Figs. 18 and 19. G: Table 6.
EDM2_CONFIG_LENGTH = {"a": 0.034, "b": 0.090, "c": 0.075, "d": 0.225, "g": 0.130}
EDM2PLUS_CONFIG_FID = {
    "a": 1.63,
    "b": 1.81,
    "c": 1.75,
    "d": 1.57,
    "d-e4": 1.60,
    "e": 1.63,
    "e-k7": 1.64,
    "f": 1.68,
    "g": 1.66,
    "f-bottleneck": 1.60,
    "g-bottleneck": 1.58,
}  # EDM2+, Tables 1 and 2
EDM2PLUS_FID = {"s": 1.58, "l": 1.33, "xl": 1.33}  # EDM2+, Table 3
EDM2PLUS_IMG64_MI = {"xs": 2048, "s": 2048, "m": 2048, "l": 2048, "xl": 640}  # 2147.5 or 671.1 Mimg (Section 3.3)


def _published(name: str, network: NetworkSpec, summary: str) -> Recipe:
    """How both papers train a network of a size that its name ends with: on latents or on pixels (Table 6)."""
    latents, size = "-img512-" in name, name.rpartition("-")[2]
    duration, lr, dropout = (IMG512 if latents else IMG64)[size]
    return Recipe(
        name=name,
        summary=summary,
        network=network.replace(dropout=dropout),
        latents=latents,
        loss=LATENTS if latents else PIXELS,
        precision="float16",
        duration=duration * MI,
        lr=lr,
        t_ref=70_000 if latents else 35_000,
        scores=AUTOGUIDED.get(name, ()),
    )


def _edm2_img512(size: str) -> Recipe:
    source = "Table 6" if size in IMG512_FID else "not in the paper, trained as XS but for the learning rate"
    base = _published(f"edm2-img512-{size}", edm2(size), f"EDM2-{size.upper()}, ImageNet-512 latents ({source})")
    scores = []
    for metric, table in (("FID", IMG512_FID), ("FD-DINOv2", IMG512_DINO)):
        if size in table:
            (value, sigma_rel), (guided, guided_sigma_rel, weight) = table[size]
            scores.append(Score(metric, value, sigma_rel))
            scores.append(Score(metric, guided, guided_sigma_rel, weight, "edm2-img512-xs-uncond"))
    return base.replace(scores=(*scores, *base.scores))


def _edm2_img64(size: str) -> Recipe:
    network = edm2(size, channels=3)
    source = "Table 6" if size in IMG64_FID else "not in Table 6, trained as S but for the learning rate"
    base = _published(f"edm2-img64-{size}", network, f"EDM2-{size.upper()}, ImageNet-64 pixels ({source})")
    alone = [Score("FID", *IMG64_FID[size])] if size in IMG64_FID else []
    return base.replace(scores=(*alone, *base.scores))


def _unconditional(conditional: Recipe) -> Recipe:
    name = f"{conditional.name}-uncond"
    return conditional.replace(
        name=name,
        summary=conditional.summary.partition(" (")[0] + " without labels (not in Table 6, trained as with labels)",
        network=conditional.network.replace(label_dim=0),
        scores=AUTOGUIDED.get(name, ()),
    )


def _edm2_configs() -> list[Recipe]:
    networks, recipes = edm2_configs(), []
    changes: dict[str, dict[str, object]] = {  # from one config to the next, beside the network
        "b": {
            "loss": LATENTS,
            "batch": 2048,
            "lr": 2e-4,
            "beta2": 0.99,
            "ema": Recipe.ema,
            "ema_half_life": 0,
            "uncertainty_channels": Recipe.uncertainty_channels,
        },
        "d": {"lr": 0.01, "loss_scaling": 1.0},
        "e": {"forced_normalization": True, "t_ref": 70_000},
    }
    step = Recipe(
        name="edm2-img512-config-a",
        network=networks["a"],
        latents=True,
        loss=EDMLoss(P_mean=-1.2, P_std=1.2),
        precision="float16",
        batch=4096,
        duration=2048 * MI,
        lr=1e-4,
        t_ref=0,
        beta2=0.999,
        forced_normalization=False,
        loss_scaling=100.0,
        ema=(),
        ema_half_life=50 * MIMG,
        uncertainty_channels=0,
    )
    for config, network in networks.items():
        step = step.replace(
            name=f"edm2-img512-config-{config}",
            summary=f"EDM2 config {config.upper()}, ImageNet-512 latents (Table 1)",
            network=network,
            scores=(Score("FID", EDM2_CONFIG_FID[config], EDM2_CONFIG_LENGTH.get(config)),),
            **changes.get(config, {}),
        )
        recipes.append(step)
    return recipes


def _edm2plus_img64(size: str) -> Recipe:
    known = size in EDM2PLUS_FID
    summary = f"EDM2+-{size.upper()}, ImageNet-64 pixels ({'EDM2+, Table 3' if known else 'not in the paper'})"
    base = _published(f"edm2plus-img64-{size}", edm2plus(size), summary)
    # "Constructed with the length recommended by EDM2" (EDM2+, Section 3.2).
    alone = [Score("FID", EDM2PLUS_FID[size], IMG64_FID[size][1])] if known else []
    guided = []
    if size == "s":  # "Autoguidance (XS, T/8)": the guide has seen an eighth of the images; no weight, no lengths
        eighth = EDM2PLUS_IMG64_MI["s"] * MI // 8
        guided = [Score("FID", 1.00, None, None, "edm2plus-img64-xs", eighth)]
    return base.replace(t_ref=70_000, duration=EDM2PLUS_IMG64_MI[size] * MI, scores=(*alone, *guided))


def _edm2plus_configs() -> list[Recipe]:
    # All configs are trained as size S is, config B too: the configs change the network and nothing else.
    base = _edm2plus_img64("s")
    recipes = []
    for config, network in edm2plus_configs().items():
        name, summary = f"edm2plus-img64-config-{config}", f"EDM2+ config {config.upper()}, ImageNet-64"
        fid = EDM2PLUS_CONFIG_FID.get(config)
        of = "Tables 1 and 2" if fid else "modulation before the last SiLU: not in the paper"
        scores = (Score("FID", fid, IMG64_FID["s"][1]),) if fid else ()
        recipes.append(base.replace(name=name, summary=f"{summary} ({of})", network=network, scores=scores))
    return recipes


def _edm2plus_img512(size: str) -> Recipe:
    summary = f"EDM2+-{size.upper()} on ImageNet-512 latents: not in the paper, trained as EDM2-{size.upper()}"
    return _published(f"edm2plus-img512-{size}", edm2plus(size, channels=4), summary)


def _of_papers() -> list[Recipe]:
    edm2_sizes = [*map(_edm2_img512, IMG512), *map(_edm2_img64, IMG64)]
    plus_sizes = [*map(_edm2plus_img64, IMG64), *(_edm2plus_img512(size) for size in IMG512 if size != "xxs")]
    return [
        *edm2_sizes,
        *map(_unconditional, edm2_sizes),
        *_edm2_configs(),
        *plus_sizes,
        *_edm2plus_configs(),
    ]


RECIPES = {recipe.name: recipe for recipe in (DIGITS, PIXELS32, PIXELS64, PIXELS64_MINI, *_of_papers())}


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: if there is none, with the nearest name.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {suggest(name, RECIPES)}")
    return RECIPES[name]


def list_recipes(pattern: str | None = None) -> tuple[str, ...]:
    """Names of recipes, for `recipe` and `create`: those whose network is cheapest to evaluate first.

    Args:
        pattern: that the whole name fits, with `*` and `?` ("edm2*img64*"); without these a part of the name. None for
            all.

    Raises:
        ValueError: if no name fits, with the nearest.
    """
    flops = {name: cost.evaluation.flops for name, cost in recipe_costs().items()}
    names = sorted(RECIPES, key=lambda name: (flops.get(name, math.inf), name))
    if pattern is None:
        return tuple(names)
    whole = pattern.lower() if set(pattern) & set("*?[") else f"*{pattern.lower()}*"
    fitting = tuple(name for name in names if fnmatch.fnmatchcase(name, whole))
    if not fitting:
        near = suggest(pattern.strip("*"), RECIPES)
        remedy = near if near.startswith("did you mean") else "unitgain recipes lists them all"
        raise ValueError(f"no recipe is called {brief(pattern)}; {remedy}")
    return fitting


def create(what: str | NetworkSpec | Recipe) -> "Denoiser":
    """A freshly initialized denoiser.

    Args:
        what: name of a recipe, a recipe, or the spec of a network (sigma_data is then 0.5).

    Raises:
        ValueError: if no recipe has this name.
    """
    from unitgain.denoiser import Denoiser

    if isinstance(what, NetworkSpec):
        return Denoiser(what)
    chosen = recipe(what) if isinstance(what, str) else what
    return Denoiser(chosen.network, chosen.sigma_data)
