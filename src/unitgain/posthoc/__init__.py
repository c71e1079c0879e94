"""Post-hoc EMA: from stored averages to an average of any length (EDM2, Section 3.2 and Appendix C.5).

While training, a `SnapshotStore` keeps averages of any module and writes them; afterwards `reconstruct` makes averages
of other lengths from the files, and `solve` says how well that can be done.
"""

from unitgain.posthoc.estimate import estimate as estimate
from unitgain.posthoc.inner import inner_product as inner_product
from unitgain.posthoc.load import load_into as load_into
from unitgain.posthoc.planning import fit_errors as fit_errors
from unitgain.posthoc.planning import plan as plan
from unitgain.posthoc.reconstruct import Reconstruction as Reconstruction
from unitgain.posthoc.reconstruct import reconstruct as reconstruct
from unitgain.posthoc.solve import FitWarning as FitWarning
from unitgain.posthoc.solve import Weights as Weights
from unitgain.posthoc.solve import solve as solve
from unitgain.posthoc.store import SnapshotStore as SnapshotStore
from unitgain.posthoc.targets import Length as Length
from unitgain.posthoc.targets import Target as Target
from unitgain.posthoc.targets import parse_lengths as parse_lengths
