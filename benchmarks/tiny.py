"""Every rung of both ladders at a size that the digits need, and the loss, optimizer and EMA of its rung."""

from unitgain.arch import NetworkSpec
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS, recipe

EDM2 = {f"EDM2 {rung.upper()}": f"edm2-img512-config-{rung}" for rung in "abcdefg"}
EDM2PLUS = {
    f"EDM2+ {label}": f"edm2plus-img64-config-{rung}"
    for label, rung in {
        "A": "a",
        "B": "b",
        "C": "c",
        "D": "d",
        "D*": "d-e4",
        "E": "e",
        "E k=7": "e-k7",
        "F": "f",
        "G": "g",
        "F*": "f-bottleneck",
        "G*": "g-bottleneck",
    }.items()
}
LADDERS = {**EDM2, **EDM2PLUS}


def tiny_network(network: NetworkSpec, width: int) -> NetworkSpec:
    """The rung on 8x8 digits: two levels, one block each; `width` stands for the papers' 192 channels."""
    return network.replace(
        resolution=8,
        channels=1,
        label_dim=10,
        model_channels=width * network.model_channels // 192,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=width,
    )


def tiny_recipe(name: str, width: int, steps: int, batch: int) -> Recipe:
    """The rung's recipe on the digits.

    What a rung changes is kept: loss and its scaling, weight normalization, Adam's beta2, the kind of EMA, dropout and
    whether the learning rate decays. What belongs to the data or the length of the run is that of the digits: noise
    levels, ramp-up, decay, learning rate; a tenth of it for A-C, whose weights are not normalized (the papers take a
    fiftieth and a hundredth, in runs of a million steps).
    """
    rung = recipe(name)
    plain = rung.network.design in ("adm", "streamlined")
    return rung.replace(
        network=tiny_network(rung.network, width),
        latents=False,
        P_mean=DIGITS.P_mean,
        P_std=DIGITS.P_std,
        batch=batch,
        duration=steps * batch,
        lr=DIGITS.lr * (0.1 if plain else 1),
        t_ref=DIGITS.t_ref if rung.t_ref else 0,
        rampup=DIGITS.rampup,
        ema_half_life=steps * batch // 20 if rung.ema_half_life else 0,
        snapshot_every=batch,
    )
