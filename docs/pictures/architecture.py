"""Draws architecture.svg beside this file: `python docs/pictures/architecture.py`. Boxes name files of the package."""

from html import escape
from pathlib import Path
from typing import NamedTuple

PICTURE = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 1000, 500
BOX, TALL = 150, 78  # width and height of a box
STYLE = """
  .paper { fill: #ffffff } .band { fill: #eef1fb } .core { fill: #ffffff; stroke: #3f51b5 }
  .outer { fill: #ffffff; stroke: #8a6d00 } .arrow { stroke: #444444; fill: none; stroke-width: 1.6 }
  .head { fill: #444444 } text { fill: #1b1b1b; font: 13px sans-serif } .name { font-weight: 600 }
  .files { font: 11px monospace } .title { font: 600 15px sans-serif } .small { font: 12px sans-serif }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #1e2129 } .band { fill: #2a2f3d } .core { fill: #1e2129; stroke: #9fa8da }
    .outer { fill: #1e2129; stroke: #e0c060 } .arrow { stroke: #c8c8c8 } .head { fill: #c8c8c8 } text { fill: #f0f0f0 }
  }
"""


class Box(NamedTuple):
    """A step of the way: where it is, what it does, and which files of `unitgain` do it."""

    x: int
    y: int
    name: str
    does: str
    files: str
    core: bool = True


BOXES = {
    "prepared": Box(20, 50, "Prepared data", "fitted, checked, hashed", "data/prepare", core=False),
    "loader": Box(216, 50, "Loader", "order by seed, read ahead", "data/loader", core=False),
    "loss": Box(412, 50, "Loss", "noise level, noise, weight", "loss"),
    "step": Box(608, 50, "Step", "project, backward, Adam", "train/step", core=False),
    "tracked": Box(804, 50, "Averages", "two lengths, each step", "ema"),
    "denoiser": Box(412, 205, "Denoiser", "preconditioned network", "denoiser arch layers ops"),
    "reconstruct": Box(804, 205, "Post-hoc EMA", "any length, after training", "posthoc"),
    "infer": Box(608, 205, "Prepared network", "PyTorch, C or Triton", "infer native kernels", core=False),
    "noise": Box(20, 375, "Seed and class", "noise of that image alone", "sample/seeds"),
    "sampler": Box(216, 375, "Sampler", "from sigma_max down to 0", "sample/samplers"),
    "guide": Box(412, 375, "Guidance", "away from a worse network", "guide"),
    "decode": Box(608, 375, "Pixels", "encoder or VAE, undone", "data/encoder draw", core=False),
    "judged": Box(804, 375, "Measured, chosen", "metrics over lengths", "metrics sweep", core=False),
}
ARROWS = [
    ("prepared", "loader"),
    ("loader", "loss"),
    ("loss", "step"),
    ("step", "tracked"),
    ("loss", "denoiser"),
    ("tracked", "reconstruct"),
    ("reconstruct", "infer"),
    ("denoiser", "infer"),
    ("noise", "sampler"),
    ("sampler", "guide"),
    ("infer", "guide"),
    ("guide", "decode"),
    ("decode", "judged"),
    ("judged", "reconstruct"),
]
BANDS = [(30, 120, "A training image"), (355, 120, "A sample")]
NOTES = [
    (20, 222, "Snapshots and checkpoints (checkpoint) lie"),
    (20, 240, "between training and drawing. Commands (cli)"),
    (20, 258, "and pages (report) stand above all of it;"),
    (20, 276, "trust and files, which believe no file, below."),
]


def draw() -> str:
    """The picture as SVG."""
    bands = [f'<rect class="band" x="8" y="{y}" width="{WIDTH - 16}" height="{tall}" rx="8"/>' for y, tall, _ in BANDS]
    titles = [f'<text class="title" x="20" y="{y - 9}">{escape(title)}</text>' for y, _, title in BANDS]
    notes = [f'<text class="small" x="{x}" y="{y}">{escape(text)}</text>' for x, y, text in NOTES]
    parts = [*bands, *titles, *notes, *(arrow(BOXES[a], BOXES[b]) for a, b in ARROWS), *map(box, BOXES.values())]
    label = (
        "The way of a training image, from prepared data to averages of weights, and of a sample, from seed to score"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto">'
            '<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
            f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def box(one: Box) -> str:
    """A rectangle with three lines."""
    middle = one.x + BOX // 2
    lines = [("name", 22, one.name), ("small", 42, one.does), ("files", 63, one.files)]
    text = "".join(
        f'<text class="{kind}" x="{middle}" y="{one.y + down}" text-anchor="middle">{escape(line)}</text>'
        for kind, down, line in lines
    )
    kind = "core" if one.core else "outer"
    return f'<rect class="{kind}" x="{one.x}" y="{one.y}" width="{BOX}" height="{TALL}" rx="6"/>{text}'


def arrow(one: Box, other: Box) -> str:
    """From edge to edge: along a row, along a column, or askew between rows."""
    if one.y == other.y:
        start, end = (one.x + BOX, other.x) if one.x < other.x else (one.x, other.x + BOX)
        y = one.y + TALL // 2
        return f'<path class="arrow" marker-end="url(#head)" d="M{start} {y} L{end} {y}"/>'
    y, goal = (one.y + TALL, other.y) if one.y < other.y else (one.y, other.y + TALL)
    x, there = one.x + BOX // 2, other.x + BOX // 2
    return f'<path class="arrow" marker-end="url(#head)" d="M{x} {y} L{there} {goal}"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
