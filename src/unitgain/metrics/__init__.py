"""How good a set of images is: one pass over it, any set of metrics, each result with what made it.

`metric` (what a metric is; all of them) beside the formulas `frechet`, `kernel`, `neighbours`, `inception_score`;
`detectors`, `networks` and `weights` < `summary` (what one pass leaves) < `reference` (the same of the real images, on
disk) < `measure`.
"""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
