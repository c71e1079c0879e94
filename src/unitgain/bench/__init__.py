"""How fast things are here: networks, training steps, samplers, averages and loaders, in turns in one process.

A figure of this room is a ratio wherever it can be: to the plain implementation, to the rate of matrix products, to the
rate at which the same bytes are read. Machines differ and are shared; ratios within one process hold.
"""
