"""Every config of both papers at a size that the digits need, and the loss, optimizer and EMA of its config."""

from unitgain.arch import NetworkSpec
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS, recipe

EDM2 = {f"EDM2 {config.upper()}": f"edm2-img512-config-{config}" for config in "abcdefg"}
EDM2PLUS = {
    f"EDM2+ {label}": f"edm2plus-img64-config-{config}"
    for label, config in {
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
PAPERS = {**EDM2, **EDM2PLUS}


def tiny_network(network: NetworkSpec, width: int) -> NetworkSpec:
    """The config on 8x8 digits: two levels, one block each; `width` stands for the papers' 192 channels."""
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
    """The config's recipe on the digits.

    What a config changes is kept: loss and its scaling, weight normalization, Adam's beta2, the kind of EMA, dropout,
    and whether the learning rate decays. What belongs to the data or the length of the run is that of the digits: noise
    levels, ramp-up, decay, learning rate; a tenth of it for A-C, whose weights are not normalized (the papers take a
    fiftieth and a hundredth, in runs of a million steps).
    """
    config = recipe(name)
    plain = config.network.design in ("adm", "streamlined")
    return config.replace(
        network=tiny_network(config.network, width),
        latents=False,
        loss=DIGITS.loss,
        precision="float32",
        batch=batch,
        duration=steps * batch,
        lr=DIGITS.lr * (0.1 if plain else 1),
        t_ref=DIGITS.t_ref if config.t_ref else 0,
        rampup=DIGITS.rampup,
        ema_half_life=steps * batch // 20 if config.ema_half_life else 0,
        snapshot_every=batch,
    )
