"""Every config and size of both papers by name, each a `replace()` of the one before.

EDM2 (Table 1, Appendix B): configurations A-G at 4x64x64, the sizes XXS-XXL of G. EDM2+ (its Tables 1 and 2): A-G* at
3x64x64, the sizes of G*. A config of your own is one more `replace()`; `unitgain.create` takes any spec.
"""

from unitgain.arch.spec import NetworkSpec

BASES = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
"""Base channels of each size (Table 6; XXS is not in the paper)."""

IMAGENET_CLASSES = 1000


def edm2_configs() -> dict[str, NetworkSpec]:
    """Configurations "a" ... "g" of EDM2 at size S on 64x64x4 latents, 1000 classes (Table 1, Figs. 16-22)."""
    a = NetworkSpec(
        resolution=64,
        channels=4,
        label_dim=IMAGENET_CLASSES,
        model_channels=BASES["s"],
        design="adm",
        attn_resolutions=(32, 16, 8),
        dropout=0.1,
    )
    b = a.replace(attn_resolutions=(16, 8))
    c = b.replace(design="streamlined")
    d = c.replace(design="normalized")
    e = d.replace()  # the same network; training forces the norm of its weights
    f = e.replace(design="plain")
    g = f.replace(design="magnitude-preserving", dropout=0.0)
    return {"a": a, "b": b, "c": c, "d": d, "e": e, "f": f, "g": g}


def edm2plus_configs() -> dict[str, NetworkSpec]:
    """Configurations of EDM2+ at size S on 64x64x3 pixels, 1000 classes, by the names of its Tables 1 and 2.

    "d-e4" is D*, "f-bottleneck" is F* and "g-bottleneck" is G*, which is EDM2+-S. F* and G* modulate after the SiLU, as
    Eq. 9 is printed; "f-bottleneck-ms" and "g-bottleneck-ms" are the same with the modulation before it, as in Eq. 2.
    """
    a = edm2_configs()["g"].replace(channels=3)
    b = a.replace(model_channels=384, branch="s d m s d", decoder_branch="s d P m s d")
    c = a.replace(branch="s d s E s d m s P", expansion=6)
    d = c.replace(branch="s d E s d m s P")
    d_e4 = d.replace(expansion=4)
    e = d.replace(branch="s E s d m s P")
    e_k7 = e.replace(kernel=7)
    f = d_e4.replace(branch="s d E s d m s P s d")
    g = f.replace(branch="s d E m s P s d")
    f_bottleneck = f.replace(branch="s d E s d s P s m d")
    g_bottleneck = g.replace(branch="s d E s P s m d")
    return {
        "a": a,
        "b": b,
        "c": c,
        "d": d,
        "d-e4": d_e4,
        "e": e,
        "e-k7": e_k7,
        "f": f,
        "g": g,
        "f-bottleneck": f_bottleneck,
        "g-bottleneck": g_bottleneck,
        "f-bottleneck-ms": f_bottleneck.replace(branch="s d E s d s P m s d"),
        "g-bottleneck-ms": g_bottleneck.replace(branch="s d E s P m s d"),
    }


def edm2(size: str, channels: int = 4, dropout: float = 0.0) -> NetworkSpec:
    """EDM2 at a size of `BASES` (config G), at 64x64 and 1000 classes; `channels` is 4 for latents and 3 for pixels."""
    return edm2_configs()["g"].replace(model_channels=BASES[size], channels=channels, dropout=dropout)


def edm2plus(size: str, channels: int = 3, dropout: float = 0.0) -> NetworkSpec:
    """EDM2+ at a size of `BASES` (config G*), at 64x64, 1000 classes; `channels` is 4 for latents and 3 for pixels."""
    return edm2plus_configs()["g-bottleneck"].replace(model_channels=BASES[size], channels=channels, dropout=dropout)
