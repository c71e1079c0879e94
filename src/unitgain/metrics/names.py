"""Metrics by name."""

from collections.abc import Sequence
from dataclasses import dataclass

from unitgain.serial import suggest

DINOV2 = "facebook/dinov2-large"  # ViT-L/14, 1024 features


@dataclass(frozen=True)
class Kind:
    """What a kind of metric needs, and which way is better.

    Args:
        reference: it compares with real images.
        rows: it needs the features of every image, not only their moments.
        higher: higher is better.
    """

    reference: bool = True
    rows: bool = False
    higher: bool = False


KINDS = {
    "fd": Kind(),
    "kid": Kind(rows=True),
    "is": Kind(reference=False, higher=True),
    "precision": Kind(rows=True, higher=True),
    "recall": Kind(rows=True, higher=True),
    "density": Kind(rows=True, higher=True),
    "coverage": Kind(rows=True, higher=True),
}
# Names of the field for a kind with a certain detector.
ALIASES = {"fid": ("fd", "inception"), "fd_dinov2": ("fd", "dinov2"), "fd_pixels": ("fd", "pixels")}


@dataclass(frozen=True)
class Metric:
    """A kind of metric in the features of a detector."""

    kind: str
    detector: str

    @property
    def name(self) -> str:
        """As records and tables show it, beside the detector."""
        names = {pair: alias for alias, pair in ALIASES.items()}
        return names.get((self.kind, self.detector), self.kind)

    @property
    def needs(self) -> Kind:
        """What it needs."""
        return KINDS[self.kind]


def parse_metrics(names: Sequence[str], default: str = "inception") -> list[Metric]:
    """Metrics from names: `fid`, `fd_dinov2`, `fd_pixels`, or a kind, alone or with a detector (`kid@dinov2`).

    Args:
        names: `-` and `_` are the same, case does not matter.
        default: detector of kinds that come alone.

    Raises:
        ValueError: if there is none, one is unknown (with the nearest name), or one comes twice.
    """
    found = []
    for name in names:
        kind, at, detector = name.partition("@")
        kind = kind.strip().lower().replace("-", "_")
        if kind in ALIASES and not at:
            found.append(Metric(*ALIASES[kind]))
        elif kind in KINDS and (detector or not at):
            found.append(Metric(kind, detector.strip() or default))
        else:
            raise ValueError(f"unknown metric {name!r}; {suggest(kind, [*ALIASES, *KINDS])}")
    if not found or len(set(found)) != len(found):
        raise ValueError(f"name each metric once, such as fid,kid; not {', '.join(names) or 'none'}")
    return found
