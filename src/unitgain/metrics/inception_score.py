"""Inception score: how sure a classifier is of each image, and how varied its answers are."""

import torch
from jaxtyping import Float
from torch import Tensor


def inception_score(probabilities: Float[Tensor, "n classes"], splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over the splits of `exp(E KL(p(y|x) || p(y)))`.

    Image number i belongs to split `i mod splits`: unlike consecutive parts this mixes the classes in images that are
    sorted by class.

    Args:
        probabilities: of the classes; rows sum to 1.
        splits: parts that a score each is computed of.

    Raises:
        ValueError: if they do not.

    Source: Salimans et al. 2016, Section 4.
    """
    p = probabilities.double()
    if not torch.isfinite(p).all() or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError("an Inception score needs probabilities, rows that sum to 1; apply a softmax to logits")
    parts = [p[split::splits] for split in range(min(splits, len(p)))]
    entropies = [(torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean()) for part in parts]
    scores = torch.stack(entropies).exp()
    return scores.mean().item(), scores.std(correction=0).item()
