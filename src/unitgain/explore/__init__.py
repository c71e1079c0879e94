"""The explorer: any average of a run, looked at. `Session` is the engine; `server` and `export` show it."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.explore.session import Picture as Picture
    from unitgain.explore.session import Reading as Reading
    from unitgain.explore.session import Session as Session
    from unitgain.explore.takeaway import command_lines as command_lines
    from unitgain.explore.takeaway import python as python
    from unitgain.explore.takeaway import shell as shell
    from unitgain.explore.views import Average as Average
    from unitgain.explore.views import View as View

__getattr__, __dir__ = offer(__name__)
