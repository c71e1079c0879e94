"""Metrics as values: what each needs, which way is better, its settings, and how it is computed from what was seen.

A new metric is a subclass with a `score` of its own. By name it is `module:attribute` wherever metrics are named.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unitgain.extras import import_named, source_hash
from unitgain.given import several
from unitgain.metrics.weights import SCRIPTS
from unitgain.sample.seeds import check_seeds
from unitgain.serial import suggest, to_dict

if TYPE_CHECKING:
    from unitgain.metrics.measure import Pair
    from unitgain.metrics.neighbours import Neighbourhoods

Score = float | tuple[float, float]  # a value, or one and how uncertain it is, as `Record.deviation` says


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A figure of a set of images in the features of a detector. The fields of a subclass are its settings.

    Args:
        detector: name of the detector; empty for the one that the user chooses for all.

    Attributes:
        kind: its name, beside that of the detector.
        reference: whether it compares with real images.
        rows: whether it needs the features of every image, not only their mean and covariance.
        probabilities: whether it needs probabilities of classes, from a detector that names some.
        higher: whether higher is better.
        images: how many are usually measured; of fewer there is a warning.
    """

    kind: ClassVar[str]
    reference: ClassVar[bool] = True
    rows: ClassVar[bool] = False
    probabilities: ClassVar[bool] = False
    higher: ClassVar[bool] = False
    images: ClassVar[int] = 50_000

    detector: str = ""

    @property
    def name(self) -> str:
        """As it is shown beside its detector: `fid`, `kid`."""
        return self.label.partition("@")[0]

    @property
    def label(self) -> str:
        """As it is shown alone, and named: `fid`, `kid@dinov2`."""
        known = (name for name, metric in METRICS.items() if metric == self)
        return next(known, f"{self.kind}@{self.detector}")

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers it is computed with."""
        return {name: value for name, value in to_dict(self).items() if name != "detector"}

    @property
    def code(self) -> dict[str, str | None]:
        """SHA-256 of the source of its classes that are not this library's, by `module:class`; None where unknown."""
        own = [one for one in type(self).__mro__ if issubclass(one, Metric) and one.__module__ != __name__]
        return {f"{one.__module__}:{one.__qualname__}": source_hash(one.__module__) for one in own}

    @abstractmethod
    def score(self, pair: "Pair") -> Score:
        """The value, alone or with its standard deviation over parts of the images.

        Args:
            pair: what was seen of the images, and the real ones.

        Raises:
            ValueError: if there are too few images.
        """

    def warnings(self, pair: "Pair") -> list[str]:
        """What makes a value less than it seems."""
        n = pair.images.n
        few = f"{n:,} images, fewer than {self.images:,}: not comparable with published figures"
        return [few] if n < self.images else []


@dataclass(frozen=True, kw_only=True)
class Frechet(Metric):
    """The Frechet distance between Gaussians (Heusel et al. 2017; in DINOv2's features Stein et al. 2023)."""

    kind = "fd"

    def score(self, pair: "Pair") -> Score:
        """As `frechet.frechet_distance`, with its error where the features of every image are at hand."""
        from unitgain.metrics.frechet import frechet_distance, sampling_error

        images, real, root = pair.images, pair.real.summary, pair.real.root
        value = frechet_distance(images.mean, images.cov, real.mean, real.cov, root2=root)
        if images.rows is None:
            return value
        return value, sampling_error(images.rows, real.mean, real.cov, root2=root)

    def warnings(self, pair: "Pair") -> list[str]:
        """Also of covariances without full rank."""
        found, n, dims, count = super().warnings(pair), pair.images.n, len(pair.images.mean), pair.real.count
        if n <= dims:
            rank = "the covariance has no full rank and the distance is biased"
            found.append(f"{n:,} images for {dims:,} features: {rank}")
        if count is not None and count <= dims:
            rank = "its covariance has no full rank"
            found.append(f"the reference has {count:,} images for {dims:,} features: {rank}")
        return found


@dataclass(frozen=True, kw_only=True)
class KernelDistance(Metric):
    """KID, the squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018).

    Args:
        subsets: how many subsets of images it averages over.
        size: images in each.
        seed: of the subsets.

    Raises:
        ValueError: if the seed is out of range.
    """

    kind = "kid"
    rows = True

    subsets: int = 100
    size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_seeds([self.seed], "seed of KID")

    def score(self, pair: "Pair") -> Score:
        """As `kernel.kernel_distance`."""
        from unitgain.metrics.kernel import kernel_distance

        return kernel_distance(*pair.rows(), subsets=self.subsets, size=self.size, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class InceptionScore(Metric):
    """How sure a classifier is of each image, and how varied its answers are (Salimans et al. 2016).

    Args:
        splits: parts of the images that a score each is computed of.
    """

    kind = "is"
    reference = False
    probabilities = True
    higher = True

    splits: int = 10

    def score(self, pair: "Pair") -> Score:
        """As `inception_score.inception_score`."""
        from unitgain.metrics.inception_score import inception_score

        assert pair.images.probabilities is not None
        return inception_score(pair.images.probabilities, self.splits)


@dataclass(frozen=True, kw_only=True)
class Neighbours(Metric):
    """One of the figures of `neighbours.Neighbourhoods`; one comparison serves all of them.

    Args:
        k: neighbours that make the reach of an image.
    """

    rows = True
    higher = True

    k: int = 3

    def score(self, pair: "Pair") -> Score:
        """The figure of this kind."""
        ks = tuple(sorted({metric.k for metric in pair.metrics if isinstance(metric, Neighbours)}))
        return getattr(pair.once(_compare, ks)[self.k], self.kind)


def _compare(pair: "Pair", ks: tuple[int, ...]) -> "dict[int, Neighbourhoods]":
    from unitgain.metrics.neighbours import neighbourhoods

    return neighbourhoods(*pair.rows(), ks, real_radii=pair.real.radii(ks, pair.device))


class Precision(Neighbours):
    """Part of the generated images within reach of a real one (Kynkaanniemi et al. 2019)."""

    kind = "precision"


class Recall(Neighbours):
    """Part of the real images within reach of a generated one (Kynkaanniemi et al. 2019)."""

    kind = "recall"


@dataclass(frozen=True, kw_only=True)
class Density(Neighbours):
    """Real images that a generated one is in reach of, over k (Naeem et al. 2020)."""

    kind = "density"
    k: int = 5


@dataclass(frozen=True, kw_only=True)
class Coverage(Neighbours):
    """Part of the real images that have a generated one within their reach (Naeem et al. 2020)."""

    kind = "coverage"
    k: int = 5


# By the names that users give: the field's for a distance in the features of a certain detector, or the kind.
METRICS: dict[str, Metric] = {
    "fid": Frechet(detector="inception"),
    "fd_dinov2": Frechet(detector="dinov2"),
    "fd_pixels": Frechet(detector="pixels"),
    **{one.kind: one for one in (Frechet(), KernelDistance(), InceptionScore())},
    **{one.kind: one for one in (Precision(), Recall(), Density(), Coverage())},
}


def split_name(text: str) -> tuple[str, str]:
    """Name and detector of a metric, the detector empty where there is none; nothing of a user's is imported.

    Args:
        text: `fid`, `kid`, ..., or `module:attribute`, alone or with a detector (`kid@dinov2`). In names of ours `-`
            and `_` are the same, and case does not matter.

    Raises:
        ValueError: if it is unknown; it says the nearest name.
    """
    name, at, detector = (part.strip() for part in text.partition("@"))
    own = ":" in name
    if not own:
        name = name.lower().replace("-", "_")
    known = own or name in METRICS
    if not known or (at and (not detector or (not own and METRICS[name].detector))):
        raise ValueError(f"unknown metric {text!r}; {suggest(name, METRICS)}")
    return name, detector


def higher_is_better(text: str) -> bool | None:
    """Which way a metric of this name is better, as in `split_name`; None for one that is not the library's."""
    try:
        name, _ = split_name(text)
    except ValueError:
        return None
    return METRICS[name].higher if name in METRICS else None


def is_program(text: str) -> bool:
    """Whether a metric, as in `split_name`, runs code that is not this library's: Python, or a TorchScript file."""
    name, detector = split_name(text)
    return ":" in name or ":" in detector or detector.endswith(SCRIPTS)


def parse_metrics(names: Sequence[str | Metric], default: str = "inception") -> list[Metric]:
    """Metrics, each with a detector.

    Args:
        names: metrics, or names as in `split_name`. `module:attribute` is imported: a metric, or a class of one.
        default: detector of those that have none.

    Raises:
        ValueError: if there is none, one is unknown or cannot be imported, or one comes twice.
    """
    metrics = []
    for one in several(names, "metrics"):
        if not isinstance(one, Metric):
            name, detector = split_name(one)
            one = _imported(name) if ":" in name else METRICS[name]
            one = dataclasses.replace(one, detector=detector or one.detector)
        metrics.append(dataclasses.replace(one, detector=one.detector or default))
    if not metrics or len({metric.label for metric in metrics}) != len(metrics):
        raise ValueError(f"name each metric once, such as fid,kid; not {', '.join(map(str, names)) or 'none'}")
    return metrics


def _imported(name: str) -> Metric:
    found = import_named(name, "metric")
    metric = found() if isinstance(found, type) and issubclass(found, Metric) else found
    if not isinstance(metric, Metric):
        raise ValueError(f"metric {name!r} is no unitgain.metrics.metric.Metric")
    return metric
