"""Sweeps over EMA lengths and guidance, and the search for the best of them.

Averages are reconstructed once per length, every cell is drawn from the same seeds, and what is measured is kept in a
table on disk: a sweep goes on where it stopped, and one with more cells computes those.
"""

from unitgain.sweep.cells import Cell, CellResult, SweepConfig
from unitgain.sweep.judge import Judge
from unitgain.sweep.run import Sweep, sweep
from unitgain.sweep.table import write_csv
from unitgain.sweep.tune import Axis, Space, tune

__all__ = ["Axis", "Cell", "CellResult", "Judge", "Space", "Sweep", "SweepConfig", "sweep", "tune", "write_csv"]
