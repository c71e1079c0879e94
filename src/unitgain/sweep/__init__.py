"""Sweeps over EMA lengths and guidance, and the search for the best of them.

Averages are reconstructed once per length, every cell is drawn from the same seeds, and what is measured is kept in a
table on disk: a sweep goes on where it stopped, and one with more cells computes those.
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.evaluate.judge import Judge as Judge
    from unitgain.sweep.cells import Cell as Cell
    from unitgain.sweep.cells import CellResult as CellResult
    from unitgain.sweep.cells import SweepConfig as SweepConfig
    from unitgain.sweep.run import Sweep as Sweep
    from unitgain.sweep.run import sweep as sweep
    from unitgain.sweep.search import tune as tune
    from unitgain.sweep.table import write_csv as write_csv

__getattr__, __dir__ = offer(__name__)
