"""The commands by name: where each is, and its first line of help, which is shown without importing it."""

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        module: in `unitgain.cli`.
        name: of the dataclass of its options there; its method `run` does it.
        summary: the first line of that one's docstring.
    """

    module: str
    name: str
    summary: str

    def load(self) -> type:
        """The dataclass."""
        return getattr(importlib.import_module(f"unitgain.cli.{self.module}"), self.name)


COMMANDS = {
    "demo": Command(
        "demo",
        "Demo",
        "Train on handwritten digits, pick the EMA length afterwards, sample, measure and write a report.",
    ),
    "data prepare": Command("data", "Prepare", "Make training data of any images."),
    "data check": Command(
        "data", "Check", "Read all of prepared data: is it whole, what is in it, which noise levels does it need?"
    ),
    "data show": Command("data", "Show", "Draw a contact sheet: some images of each class."),
    "data encode": Command("data", "Encode", "Make latents of prepared pixels with a VAE."),
    "data export": Command("data", "Export", "Write prepared data as the archive that the official code reads."),
    "train": Command("train", "Train", "Train a network by a recipe."),
    "watch": Command(
        "watch", "Watch", "Show how a run is doing: progress, loss, noise levels, speed, and whether it is alive."
    ),
    "report": Command(
        "report",
        "Report",
        "Write a page about a run, finished or in training: curves, noise levels, magnitudes, samples over time.",
    ),
    "ema list": Command("ema", "List", "List the averages that a run has stored."),
    "ema reconstruct": Command(
        "ema", "Reconstruct", "Reconstruct averages of any length from those that a run has stored (post-hoc EMA)."
    ),
    "ema plot": Command(
        "ema", "Plot", "Plot the averaging profiles: stored, wanted, achieved, and their difference (EDM2, Fig. 4)."
    ),
    "ema error": Command(
        "ema", "Error", "Tell how well averages of a range of lengths can be reconstructed from what a run has stored."
    ),
    "ema convert": Command(
        "ema",
        "Convert",
        "Make snapshots of checkpoints of another project: safetensors or torch.save files, or folders of them.",
    ),
    "sample": Command("sample", "Sample", "Draw images with a network, guided or not."),
    "metrics": Command(
        "metrics",
        "Metrics",
        "Measure images: FID, FD-DINOv2, KID, Inception score, precision, recall, density, coverage.",
    ),
    "metrics reference": Command(
        "metrics",
        "MetricsReference",
        "Measure what there is to know of real images, once, for `unitgain metrics --reference`.",
    ),
    "sweep": Command(
        "sweep", "SweepCommand", "Sweep EMA lengths and guidance: draw, measure, keep what was measured, plot."
    ),
    "tune": Command("sweep", "Tune", "Search for the best EMA length and guidance with few evaluations."),
    "convert": Command(
        "convert",
        "Convert",
        "Make snapshots of official EDM2 files (.pkl), and reference files of their statistics; runs nothing in them.",
    ),
    "fetch": Command(
        "fetch",
        "Fetch",
        "Download an official network by the name of its preset, and convert it. Without a name: list what there is.",
    ),
    "push": Command(
        "push",
        "Push",
        "Publish a snapshot as a repository of the Hugging Face Hub, with a model card of what it says of itself.",
    ),
    "inspect": Command("inspect", "Inspect", "Show what is in a snapshot, a run or a recipe, and what a recipe costs."),
    "magnitudes": Command(
        "magnitudes", "Magnitudes", "Show how large activations and weights were while a run trained, by resolution."
    ),
    "bench forward": Command("bench", "Forward", "Evaluations of a denoiser."),
    "bench train": Command("bench", "Train", "Training steps on random images."),
    "bench sample": Command(
        "bench", "Sample", "Whole samplers, and what they cost beyond the evaluations of their networks."
    ),
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
