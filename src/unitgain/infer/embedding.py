"""Noise level and label to the factors of every modulation."""

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.embed import Embedding, PlainEmbedding
from unitgain.arch.operations import Modulate
from unitgain.arch.values import Conditions, Told
from unitgain.infer.layers import apart, constant, fold_weight, freeze, frozen, joined_apart
from unitgain.layers import MPFourier
from unitgain.ops import SILU_MAGNITUDE, mp_sum_factors


class FoldedEmbedding(nn.Module):
    """Noise level and label to the factors of every modulation: one lookup and two small products for the network.

    Args:
        embedding: as trained.
        dtype: of the network. In low precision labels are stored in float16, whose rounding is an eighth of that of
            bfloat16; all else is in float32.

    Attributes:
        at_once: images that libraries get at a time, since they sum in another order for more; None for all.
    """

    def __init__(self, embedding: Embedding | PlainEmbedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.at_once: int | None = None
        self.silu = 1 / SILU_MAGNITUDE if isinstance(embedding, Embedding) else 1.0
        self.wanted = False  # whether the embedding itself is wanted
        noise_factor, label_factor = 1.0, 1.0
        if isinstance(embedding, Embedding) and embedding.label is not None:
            noise_factor, label_factor = mp_sum_factors(embedding.label_balance)
        fourier = math.sqrt(2) if type(embedding.fourier) is MPFourier else 1.0
        own = freeze(embedding.conditions, torch.float32) if isinstance(embedding, Embedding) else None
        self.conditions = cast(nn.ModuleDict | None, own)
        self.freqs = constant(embedding.fourier.freqs.float())
        self.phases = constant(embedding.fourier.phases.float())
        self.noise = frozen(fold_weight(embedding.noise).mul_(noise_factor * fourier))
        self.classes = None
        if embedding.label is not None:
            factor = label_factor * math.sqrt(embedding.label.in_channels)
            stored = torch.float32 if dtype == torch.float32 else torch.float16
            self.classes = frozen(fold_weight(embedding.label).mul_(factor).t().to(stored).contiguous())
        self._weights: list[Tensor] = []
        self._constants: list[Tensor] = []

    def slot(self, modulate: Modulate | None) -> int:
        """Take in a modulation; its place among the results. None asks for the embedding itself, which comes last."""
        if modulate is None:
            self.wanted = True
            return -1
        weight = fold_weight(modulate.linear, modulate.gain).mul_(self.silu * modulate.factor)
        self._weights.append(weight)
        self._constants.append(torch.full((len(weight),), modulate.factor, dtype=torch.float32, device=weight.device))
        return len(self._weights) - 1

    def finish(self) -> None:
        """Join all modulations into one matrix."""
        self.sizes = [len(weight) for weight in self._weights]
        self.modulation = self.constant = None
        if self.sizes:
            self.modulation = frozen(_join(self._weights))
            self.constant = frozen(torch.cat(self._constants))
        del self._weights, self._constants

    def forward(
        self,
        c_noise: Float[Tensor, " n"],
        condition: Told,
    ) -> list[Float[Tensor, "n c"]]:
        """Factors `[N, C]` of each modulation, float32; the label holds classes or mixtures of them.

        Where a step has asked for the embedding itself, that comes last.
        """
        if self.modulation is None and not self.wanted:
            return []
        conditions = condition if isinstance(condition, Conditions) else Conditions(condition)
        label = conditions.label
        emb = _by_rows(self._embed_noise, c_noise.float(), self.at_once)
        if label is not None and self.classes is not None:
            if label.is_floating_point():
                emb = emb + _by_rows(partial(torch.matmul, other=self.classes.float()), label, self.at_once)
            else:
                emb = emb + self.classes[label].float()
        if self.conditions is not None and conditions.values:
            emb = joined_apart(self.conditions, emb, conditions, self.at_once)
        emb = apart(F.silu, emb, self.at_once)
        factors: list[Tensor] = []
        if self.modulation is not None:
            modulate = partial(F.linear, weight=self.modulation, bias=self.constant)
            factors += _by_rows(modulate, emb, self.at_once).split(self.sizes, dim=1)
        if self.wanted:
            factors.append(emb * self.silu)
        return factors

    def _embed_noise(self, c_noise: Tensor) -> Tensor:
        return F.linear(torch.cos(c_noise.outer(self.freqs) + self.phases), self.noise)


def _by_rows(function: Callable[[Tensor], Tensor], x: Tensor, at_once: int | None) -> Tensor:
    """As `apart`, each part in memory of its own: libraries sum in another order where rows are not aligned."""
    return apart(lambda part: function(part.clone()), x, at_once)


def _join(parts: list[Tensor]) -> Tensor:
    """The rows of all parts, which are given up one by one."""
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for rows in whole.split(list(map(len, parts))):
        rows.copy_(parts.pop(0))
    return whole
