"""How fast networks, training steps and samplers are here, in turns in one process.

A figure is a ratio wherever it can be: to the plain implementation, to the rate of matrix products. Machines differ and
are shared; ratios within one process hold.
"""
