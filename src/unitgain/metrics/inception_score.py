"""Inception score: how sure a classifier is of each image, and how varied its answers are."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unitgain.parallel import World


class InceptionScore:
    """Sums over images, apart for each split: nothing grows with the number of images.

    Image number i belongs to split `i mod splits`: unlike consecutive parts this mixes the classes in images that are
    sorted by class.

    Args:
        splits: parts that a score each is computed of.

    Source: Salimans et al. 2016, Section 4.
    """

    def __init__(self, splits: int = 10) -> None:
        self.splits = splits
        self.count = torch.zeros(splits, dtype=torch.float64)
        self.entropy = torch.zeros(splits, dtype=torch.float64)
        self.sums = torch.zeros(splits, 0, dtype=torch.float64)

    def update(self, numbers: Int[Tensor, " n"], probabilities: Float[Tensor, "n classes"]) -> None:
        """Take in a batch.

        Args:
            numbers: which images of the whole set these are, from 0.
            probabilities: of the classes; rows sum to 1.

        Raises:
            ValueError: if they do not.
        """
        p = probabilities.to("cpu", torch.float64)
        if not torch.isfinite(p).all() or (p < 0).any() or (p.sum(1) - 1).abs().max() > 1e-3:
            raise ValueError("an Inception score needs probabilities, rows that sum to 1; apply a softmax to logits")
        if not self.sums.shape[1]:
            self.sums = p.new_zeros(self.splits, p.shape[1])
        split = numbers.cpu() % self.splits
        self.count.index_add_(0, split, torch.ones(len(p), dtype=torch.float64))
        self.entropy.index_add_(0, split, torch.special.entr(p).sum(1))
        self.sums.index_add_(0, split, p)

    def reduce(self, world: World) -> tuple[float, float]:
        """Mean and standard deviation over the splits, `exp(E KL(p(y|x) || p(y)))` of each, over all processes."""
        classes = max(world.gather(self.sums.shape[1]))
        sums = self.sums if self.sums.shape[1] else torch.zeros(self.splits, classes, dtype=torch.float64)
        world.sum([self.count, self.entropy, sums])
        used = self.count > 0
        count = self.count[used]
        marginal = torch.special.entr(sums[used] / count[:, None]).sum(1)
        scores = (marginal - self.entropy[used] / count).exp()
        return scores.mean().item(), scores.std(correction=0).item()
