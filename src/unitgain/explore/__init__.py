"""The explorer: any average of a run, looked at. `Session` is the engine; `server` and `export` show it."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.explore.session import Picture, Reading, Session
    from unitgain.explore.takeaway import command_lines, python, shell
    from unitgain.explore.views import Average, View

__all__ = ["Average", "Picture", "Reading", "Session", "View", "command_lines", "python", "shell"]

__getattr__, __dir__ = offer(__name__)
