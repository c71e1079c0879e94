"""What runs and the demo look like: HTML pages of one file each, and a view in the terminal.

`page` (HTML), `curves` (SVG), `chart` (characters); `history` reads the folder of a run, `known` its best; `run`
and `samples` make its page, `terminal` its live view; `digits` is the demo's page.
"""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
