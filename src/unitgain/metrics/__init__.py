"""How good a set of images is: one pass over it, any set of metrics, each result with what made it.

`detectors` < `moments`, `kernel`, `neighbours`, `inception_score`, `frechet` < `summary` (what one pass leaves) <
`reference` (the same of the real images, on disk) < `measure`.
"""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
