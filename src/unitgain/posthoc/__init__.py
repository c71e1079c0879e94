"""Post-hoc EMA: from stored averages to an average of any length (EDM2, Section 3.2 and Appendix C.5).

While training, a `SnapshotStore` keeps averages of any module and writes them; afterwards `reconstruct` makes averages
of other lengths from the files, and `solve` says how well that can be done.
"""

from unitgain.posthoc.estimate import estimate
from unitgain.posthoc.inner import inner_product
from unitgain.posthoc.load import load_into
from unitgain.posthoc.planning import fit_errors, plan
from unitgain.posthoc.reconstruct import Reconstruction, reconstruct
from unitgain.posthoc.solve import FitWarning, Weights, solve
from unitgain.posthoc.store import SnapshotStore
from unitgain.posthoc.targets import Length, Target, parse_lengths

__all__ = [
    "FitWarning",
    "Length",
    "Reconstruction",
    "SnapshotStore",
    "Target",
    "Weights",
    "estimate",
    "fit_errors",
    "inner_product",
    "load_into",
    "parse_lengths",
    "plan",
    "reconstruct",
    "solve",
]
