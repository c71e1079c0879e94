"""Guidance: a main denoiser led away from what a worse or less informed one would draw (EDM2, Eq. 152).

`D(x; sigma, c) = w D_main(x; sigma, c) + (1 - w) D_guide(x; sigma, c)`. The guide is the main network without its label
(classifier-free guidance, Ho and Salimans 2021), an unconditional network of any size (EDM2, Section 4, low-cost
guidance), or a smaller or less trained conditional one (autoguidance, Karras et al. 2024). It may be left out at noise
levels where it does no good (Kynkaanniemi et al. 2024).
"""

import math
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unitgain.arch.spec import NetworkSpec, check_guide
from unitgain.arch.values import Conditions
from unitgain.denoiser import DenoiserLike, Label, Pictures
from unitgain.given import settle, several
from unitgain.ops import over_pixels
from unitgain.serial import suggest


@dataclass(frozen=True, eq=False)
class PerClass:
    """A weight of guidance for each class.

    Args:
        weights: `[classes]`, a tensor or numbers.
    """

    weights: Float[Tensor, " classes"]

    def __post_init__(self) -> None:
        settle(self, weights=torch.as_tensor(self.weights, dtype=torch.float32))

    def of(self, label: Label) -> Float[Tensor, " n"]:
        """The weight of each label, `[N]`; of a mixture of classes the mean.

        Raises:
            ValueError: without a label.
        """
        label = label.label if isinstance(label, Conditions) else label
        if label is None:
            raise ValueError("a weight per class needs labels: pass label, or give one weight for all")
        weights = self.weights.to(label.device)
        return label.to(weights) @ weights if label.is_floating_point() else weights[label]


Weight = float | Tensor | PerClass | Callable[[Tensor], Tensor | float]


class Guided(Pictures, nn.Module):
    """A guided denoiser, which is a denoiser: `guided(x, sigma, label=None) -> denoised` (Eq. 152).

    Args:
        main: what is guided.
        guide: away from which; None for `main` without its label and what else it was trained to do without. A guide
            gets of the label and the conditions of `main` those that it knows.
        weight: w; 1 is no guidance. A number; a tensor or a list `[N]`, one per sample; a `PerClass`; or a function of
            sigma, which it gets as a tensor, a scalar or `[N]`, and answers with one of these shapes or a number.
        interval: noise levels `lo < sigma <= hi` that are guided; all by default.
        without: what `main` does without where it guides itself: names of conditions, and "label". By default all that
            were left out of some images in training.

    The guide is evaluated where it has a say and nowhere else: not outside the interval, not for a sample of weight 1;
    the result is there that of `main`, bit for bit.

    Attributes:
        spec: that of `main`.
        sigma_data: of both.
        encoder: of both, where known.
        label_dropout: that of `main`, where known.
        classes: their names in `main`, where known.

    Raises:
        ValueError: if the networks do not fit each other in resolution, channels, sigma_data, encoder or classes, if
            the guide is `main`, which led away from itself is unguided, if `main` is to guide itself and never saw
            images without labels, if `without` is said of another guide, or the weight or the interval is out of range.
    """

    def __init__(
        self,
        main: DenoiserLike,
        guide: DenoiserLike | None,
        weight: Weight,
        interval: tuple[float, float] | None = None,
        without: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(weight, PerClass | Tensor) and not callable(weight):
            weight = torch.as_tensor(weight, dtype=torch.float32) if isinstance(weight, Sized) else float(weight)
        _check_weight(weight, main.spec.label_dim)
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
            raise ValueError(f"interval = {interval}: noise levels (lo, hi) with 0 <= lo < hi")
        if guide is None:
            self.without: frozenset[str] = _left_out(main, without)
        else:
            _check_pair(main, guide)
            if without is not None:
                raise ValueError(
                    f"without = {without}: of a network that guides itself; leave it out, or pass no guide"
                )
            self.without = frozenset()
        self.spec, self.sigma_data, self.encoder = main.spec, main.sigma_data, main.encoder
        self.label_dropout: float | None = getattr(main, "label_dropout", None)  # someone else's may not say
        self.classes: tuple[str, ...] | None = getattr(main, "classes", None)
        self.main, self.guide = main, guide
        self.weight = weight
        self.interval = interval

    def forward(
        self, x: Float[Tensor, "n c *size"], sigma: Float[Tensor, "..."] | float, label: Label = None
    ) -> Float[Tensor, "n c *size"]:
        """Denoise; arguments, result and errors are those of `Denoiser.forward`."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        denoised = self.main(x, sigma, label)
        weight = self._weight(sigma, label, len(x))
        active = (weight != 1) & self._inside(sigma).to(weight.device)
        if not active.any():
            return denoised
        weight = weight.to(x.device)
        if active.all():
            return _mix(weight, denoised, self._guide(x, sigma, label))
        rows = active.expand(len(x)).nonzero()[:, 0].to(x.device)
        sigma, weight = (each.expand(len(x))[rows] for each in (sigma.reshape(-1), weight))
        guide = self._guide(x[rows], sigma, None if label is None else label[rows])
        return denoised.index_copy(0, rows, _mix(weight, denoised[rows], guide))

    def with_networks(self, main: DenoiserLike, guide: DenoiserLike | None) -> "Guided":
        """The same guidance of other networks; no guide is `main` without its label."""
        return self._of(main, guide, self.weight)

    def of_samples(self, rows: slice) -> "Guided":
        """The same with the weights of these samples, where they have weights of their own."""
        if not isinstance(self.weight, Tensor):
            return self
        return self._of(self.main, self.guide, self.weight[rows])

    def _of(self, main: DenoiserLike, guide: DenoiserLike | None, weight: Weight) -> "Guided":
        return Guided(main, guide, weight, self.interval, sorted(self.without) if guide is None else None)

    def check_samples(self, samples: int) -> None:
        """Raise `ValueError` if there are weights per sample, and not as many as samples."""
        if isinstance(self.weight, Tensor) and len(self.weight) != samples:
            raise ValueError(
                f"{len(self.weight)} weights of guidance for {samples} samples: give one per sample, or PerClass"
            )

    def _guide(self, x: Tensor, sigma: Tensor, label: Label) -> Tensor:
        if self.guide is None:
            return self.main(x, sigma, _only(label, _known(self.main.spec) - self.without))
        return self.guide(x, sigma, _only(label, _known(self.guide.spec)))

    def _weight(self, sigma: Tensor, label: Label, samples: int) -> Float[Tensor, " n"]:
        """`[1]` or `[N]`, float32."""
        weight = self.weight
        if isinstance(weight, PerClass):
            weight = weight.of(label)
        elif isinstance(weight, Tensor):
            self.check_samples(samples)
        elif callable(weight):
            weight = weight(sigma)
        values = torch.as_tensor(weight, dtype=torch.float32).reshape(-1)
        if len(values) not in (1, samples):
            raise ValueError(
                f"the weight of guidance is of shape {tuple(values.shape)}: expected 1 or {samples} values"
            )
        return values

    def _inside(self, sigma: Tensor) -> Tensor:
        """Whether each noise level is in the interval, `[1]` or `[N]`."""
        if self.interval is None:
            return torch.ones(1, dtype=torch.bool)
        low, high = self.interval
        return ((sigma > low) & (sigma <= high)).reshape(-1)


def _mix(weight: Tensor, main: Tensor, guide: Tensor) -> Tensor:
    weight = over_pixels(weight, main)
    return weight * main + (1 - weight) * guide


def _known(spec: NetworkSpec) -> frozenset[str]:
    """What a network can be told."""
    return frozenset({condition.name for condition in spec.conditions} | ({"label"} if spec.label_dim else set()))


def _only(label: Label, names: frozenset[str]) -> Label:
    """Of a label and conditions those of these names."""
    if isinstance(label, Conditions):
        return label.once(("only", names), lambda: label.only(names))
    return label if "label" in names else None


def _left_out(main: DenoiserLike, without: Sequence[str] | None) -> frozenset[str]:
    """What `main` does without to guide itself."""
    known = _known(main.spec)
    if not known:
        raise ValueError(
            "an unconditional network cannot guide itself, for it has no label to leave out: name another network, one "
            "that is smaller or less trained (--guide NETWORK)"
        )
    dropped = {condition.name for condition in main.spec.conditions if condition.dropout}
    if "label" in known and getattr(main, "label_dropout", None) != 0:
        dropped.add("label")
    without = None if without is None else several(without, "without")
    for name in without or ():
        if name not in known:
            raise ValueError(f"guidance without {name!r}, which the network is not told; {suggest(name, known)}")
    wanted = frozenset(dropped if without is None else without)
    if not wanted or not wanted <= dropped:
        lacking = ", ".join(sorted(wanted - dropped)) or "its labels"
        raise ValueError(
            f"this network cannot guide itself, for it was never trained without {lacking} (label dropout 0) and what "
            "it says then means nothing. Either name another network as the guide, one that is smaller, less trained "
            "or unconditional (--guide NETWORK), or use one that was trained with label dropout (unitgain train RECIPE "
            "--label-dropout 0.1), or with dropout of its conditions"
        )
    return wanted


def _check_pair(main: DenoiserLike, guide: DenoiserLike) -> None:
    if guide is main:
        raise ValueError(
            "the guide is the main network, which led away from itself is unguided: pass None to guide it by itself "
            "without its label, or another network"
        )
    check_guide(main.spec, guide.spec)
    same = {
        "sigma_data": (main.sigma_data, guide.sigma_data, "they were trained on data of different scale"),
        "encoder": (main.encoder or guide.encoder, guide.encoder or main.encoder, "both must be of the same data"),
    }
    for name, (ours, theirs, why) in same.items():
        if ours != theirs:
            raise ValueError(f"the guide has {name} {theirs}, the main network {ours}: {why}")


def _check_weight(weight: Weight, classes: int) -> None:
    if isinstance(weight, PerClass):
        if weight.weights.shape != (classes,):
            raise ValueError(
                f"weights per class of shape {tuple(weight.weights.shape)}, but the main network has {classes} classes"
            )
        values = weight.weights
    elif isinstance(weight, Tensor):
        if weight.ndim != 1:
            raise ValueError(f"weights per sample must be [N], not of shape {tuple(weight.shape)}")
        values = weight
    elif callable(weight):
        return
    else:
        values = torch.tensor(float(weight))
    if not math.isfinite(float(values.abs().sum())):
        raise ValueError(f"the weight of guidance must be finite, not {weight}")
