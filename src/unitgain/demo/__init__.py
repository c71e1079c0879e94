"""The demo: what it does (`settings`), and doing it (`run`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.demo.run import Judge, measure, run_demo
    from unitgain.demo.settings import DemoConfig

__all__ = ["DemoConfig", "Judge", "measure", "run_demo"]

__getattr__, __dir__ = offer(__name__)
