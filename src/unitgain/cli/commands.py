"""The commands by name: where each is, and its first line of help, which is read without importing it."""

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        module: in `unitgain.cli`.
        name: of the dataclass of its options there; its method `run` does it.
    """

    module: str
    name: str

    def load(self) -> type:
        """The dataclass."""
        return getattr(importlib.import_module(f"unitgain.cli.{self.module}"), self.name)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        tree = ast.parse(Path(__file__).with_name(f"{self.module}.py").read_text(encoding="utf-8"))
        node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == self.name)
        return (ast.get_docstring(node) or "").partition("\n")[0]


COMMANDS = {
    "demo": Command("demo", "Demo"),
    "recipes": Command("recipes", "Recipes"),
    "data prepare": Command("data", "Prepare"),
    "data check": Command("data", "Check"),
    "data show": Command("data", "Show"),
    "data encode": Command("data", "Encode"),
    "data export": Command("data", "Export"),
    "train": Command("train", "Train"),
    "watch": Command("watch", "Watch"),
    "report": Command("report", "Report"),
    "compare": Command("compare", "Compare"),
    "explore": Command("explore", "Explore"),
    "ema list": Command("ema", "List"),
    "ema reconstruct": Command("ema", "Reconstruct"),
    "ema plot": Command("ema", "Plot"),
    "ema responses": Command("ema", "Responses"),
    "ema error": Command("ema", "Error"),
    "ema convert": Command("ema", "Convert"),
    "sample": Command("sample", "Sample"),
    "metrics": Command("metrics", "Metrics"),
    "metrics reference": Command("metrics", "MetricsReference"),
    "sweep": Command("sweep", "SweepCommand"),
    "tune": Command("sweep", "Tune"),
    "convert": Command("convert", "Convert"),
    "fetch": Command("fetch", "Fetch"),
    "push": Command("push", "Push"),
    "inspect": Command("inspect", "Inspect"),
    "magnitudes": Command("magnitudes", "Magnitudes"),
    "completion": Command("completion", "Completion"),
    "bench forward": Command("bench", "Forward"),
    "bench train": Command("bench", "Train"),
    "bench sample": Command("bench", "Sample"),
}

# Commands of two words that begin alike.
GROUPS = {
    "data": "Prepare images for training, check and show them, encode them to latents, export them for the official "
    "code.",
    "ema": "Post-hoc EMA: list what a run has stored, reconstruct averages of any length, say how well that goes.",
    "bench": "Measure how fast networks, training and samplers are here. Everything is timed in turns "
    "in one process; medians, and ratios to the first. The share of the peak is that of the rate of matrix products, "
    "which is measured in the same process. docs/speed.md explains the figures.",
}
