"""The demo: what it does (`settings`), and doing it (`run`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.demo.run import Judge as Judge
    from unitgain.demo.run import measure as measure
    from unitgain.demo.run import run_demo as run_demo
    from unitgain.demo.settings import DemoConfig as DemoConfig

__getattr__, __dir__ = offer(__name__)
