"""Sweeps over EMA lengths and guidance, and the search for the best of them.

Averages are reconstructed once per length, every cell is drawn from the same seeds, and what is measured is kept in a
table on disk: a sweep goes on where it stopped, and one with more cells computes those.
"""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.evaluate.judge import Judge
    from unitgain.sweep.cells import Cell, CellResult, SweepConfig
    from unitgain.sweep.run import Sweep, sweep
    from unitgain.sweep.search import tune
    from unitgain.sweep.table import write_csv

__all__ = ["Cell", "CellResult", "Judge", "Sweep", "SweepConfig", "sweep", "tune", "write_csv"]

__getattr__, __dir__ = offer(__name__)
