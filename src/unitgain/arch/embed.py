"""The embedding networks: noise level and label to the vector that modulates the blocks (Figs. 16-22).

All run in float32 throughout (Appendix D.2) and share one interface: `embedding(c_noise, label) -> [N, C_emb]`, with
`c_noise` as `[N]` and `label` one-hot, zeros where it is left out, or None for no label at all.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.conditioning import embeddings, join_all
from unitgain.arch.linear import PlainConv
from unitgain.arch.spec import NetworkSpec
from unitgain.arch.values import Conditions, Told
from unitgain.layers import MPConv, MPFourier
from unitgain.ops import mp_silu, mp_sum


class Embedding(nn.Module):
    """Config G, EDM2+: Fourier features, linear, magnitude-preserving sum with the label's linear, SiLU (Fig. 22)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.label_balance = spec.label_balance
        self.fourier = MPFourier(spec.widths[0])
        self.noise = MPConv(spec.widths[0], spec.emb_channels)
        self.label = MPConv(spec.label_dim, spec.emb_channels) if spec.label_dim else None
        self.conditions = embeddings(spec)

    def forward(
        self,
        c_noise: Float[Tensor, " n"],
        condition: Told,
    ) -> Float[Tensor, "n e"]:
        """Embedding `[N, C_emb]`."""
        conditions = condition if isinstance(condition, Conditions) else Conditions(condition)
        emb, label = self.noise(self.fourier(c_noise)), conditions.label
        if self.label is not None:
            emb = mp_sum(emb, self.label(unit_label(label, emb, self.label.in_channels)), t=self.label_balance)
        return mp_silu(join_all(self.conditions, emb, conditions))


class PlainEmbedding(nn.Module):
    """Config F: Fourier features, linear, sum with the label's linear, SiLU (Fig. 21)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.fourier = Fourier(spec.widths[0])
        self.noise = MPConv(spec.widths[0], spec.emb_channels)
        self.label = MPConv(spec.label_dim, spec.emb_channels) if spec.label_dim else None

    def forward(self, c_noise: Float[Tensor, " n"], label: Float[Tensor, "n label_dim"] | None) -> Float[Tensor, "n e"]:
        """Embedding `[N, C_emb]`."""
        emb = self.noise(self.fourier(c_noise))
        if self.label is not None:
            emb = emb + self.label(unit_label(label, emb, self.label.in_channels))
        return F.silu(emb)


class DeepEmbedding(nn.Module):
    """Configs A-E: features, two linear layers with a SiLU between, sum with the label's linear, SiLU (Figs. 16-20).

    A and B have positional features, biases, and a vector per class that starts as N(0, 1) (B.1); C Fourier features,
    no biases, and everything initialized alike (B.3); D and E the same with weights normalized on use (B.4).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        adm, width, emb = spec.design == "adm", spec.widths[0], spec.emb_channels
        plain = partial(PlainConv, bias=False)
        layer, of_label = (MPConv, MPConv) if spec.design == "normalized" else (PlainConv if adm else plain, plain)
        label = of_label(spec.label_dim, emb) if spec.label_dim else None
        if adm and label is not None and not label.weight.is_meta:
            nn.init.normal_(label.weight)
        features = PositionalFeatures if adm else Fourier
        early = features(width) if spec.design == "normalized" else None  # which is what a seed draws first
        layers = layer(width, emb), layer(emb, emb)
        self.features = early or features(width)
        self.layer0, self.layer1 = layers
        self.label, self.label_dim = label, spec.label_dim
        self.label_scale = 1.0 if adm else math.sqrt(spec.label_dim)

    def forward(self, c_noise: Float[Tensor, " n"], label: Float[Tensor, "n label_dim"] | None) -> Float[Tensor, "n e"]:
        """Embedding `[N, C_emb]`."""
        emb = self.layer1(F.silu(self.layer0(self.features(c_noise))))
        if self.label is not None:
            emb = emb + self.label(one_hot(label, emb, self.label_dim) * self.label_scale)
        return F.silu(emb)


class Fourier(MPFourier):
    """Fourier features as they are, `cos(2 pi (f a + phi))`, of magnitude 1/sqrt(2) (Eq. 35)."""

    def forward(self, a: Float[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """Features `[N, C]` in float32 of the scalars `a`, `[N]`."""
        return torch.cos(a.float().outer(self.freqs.float()) + self.phases.float())


class PositionalFeatures(nn.Module):
    """The timestep embedding of ADM: cosines, then sines, of geometrically spaced frequencies 1 ... 1/10000 (B.1).

    Args:
        num_channels: number of features, even.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        if num_channels % 2:
            raise ValueError(f"positional features come in pairs: the base width {num_channels} must be even")
        self.num_channels = num_channels

    def forward(self, a: Float[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """Features `[N, C]` in float32 of the scalars `a`, `[N]`."""
        half = self.num_channels // 2
        freqs = torch.arange(half, dtype=torch.float32, device=a.device) / half
        angles = a.float().outer((1 / 10_000) ** freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def one_hot(label: Tensor | None, emb: Tensor, classes: int) -> Float[Tensor, "n label_dim"]:
    """The label of an embedding's batch in float32; zeros where there is none."""
    return emb.new_zeros(len(emb), classes) if label is None else label.float()


def unit_label(label: Tensor | None, emb: Tensor, classes: int) -> Float[Tensor, "n label_dim"]:
    """The label scaled to unit magnitude, `one_hot sqrt(classes)` (B.3); zeros where there is none."""
    return one_hot(label, emb, classes) * math.sqrt(classes)
