"""The demo: what it does (`settings`), and doing it (`run`), and what its report says (`page`)."""

from typing import TYPE_CHECKING

from unitgain.lazy import offer

if TYPE_CHECKING:
    from unitgain.demo.run import Classifier as Classifier
    from unitgain.demo.run import run_demo as run_demo
    from unitgain.demo.settings import DemoConfig as DemoConfig

__getattr__, __dir__ = offer(__name__)
