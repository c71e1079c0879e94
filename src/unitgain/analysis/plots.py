"""Networks drawn to scale (Figs. 2, 16-22 and EDM2+, Fig. 3) and magnitudes over training (Figs. 3 and 15)."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from unitgain.analysis.buckets import QUANTITIES, resolution_of
from unitgain.arch import NetworkSpec
from unitgain.arch.spec import TOKEN_DESIGNS
from unitgain.arch.tokens import TOKENS, steps
from unitgain.extras import require
from unitgain.figures import ACCENT, colors, new_figure
from unitgain.text import plot_label

ENCODER, DECODER, ATTENTION, MODULATION, INK = "#9bb7d4", "#e3b48f", "#1f4e79", "#8fb996", "#333333"
TITLES = {
    "activation_max": "activations, max",
    "activation_mean": "activations, mean",
    "weight_max": "weights, max",
    "weight_mean": "weights, mean",
}
ADM_BRANCH = (("norm", 0), ("s", 0), ("c", 1), ("norm", 1), ("m", 1), ("s", 1), ("c", 1))  # 0: input width, 1: output


def magnitude_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Magnitudes of activations and weights over training, one column per run (Figs. 3 and 15).

    Args:
        runs: by name, the rows of `stats.jsonl` that have "magnitudes", in order.

    Returns:
        A matplotlib figure: four rows (activations and weights, maximum and mean), a line per resolution bucket.

    Raises:
        ImportError: without matplotlib.
    """
    figure = new_figure(1.2 + 3.0 * len(runs), 9.0)
    axes = figure.subplots(len(QUANTITIES), len(runs), squeeze=False, sharex="col", sharey="row")
    styles = part_styles({bucket: None for rows in runs.values() for bucket in rows[-1]["magnitudes"]})
    for column, (name, rows) in enumerate(runs.items()):
        nimg = [row["nimg"] for row in rows]
        for line, quantity in enumerate(QUANTITIES):
            ax = axes[line, column]
            for bucket in rows[-1]["magnitudes"]:
                values = [row["magnitudes"].get(bucket, {}).get(quantity, math.nan) for row in rows]
                ax.plot(nimg, values, label=plot_label(bucket), linewidth=1.3, **styles[bucket])
            ax.set_yscale("log", base=2)
            ax.grid(alpha=0.25)
            ax.yaxis.set_major_formatter("{x:g}")
            if column == 0:
                ax.set_ylabel(TITLES[quantity])
        axes[0, column].set_title(plot_label(name))
        axes[-1, column].set_xlabel("images seen")
    axes[0, -1].legend(frameon=False, fontsize=7)
    return figure


def part_styles(parts: Collection[str]) -> dict[str, dict[str, Any]]:
    """How matplotlib draws parts of a network: resolutions by color, encoder and decoder by line; others by color."""
    sizes = {part: size for part in parts if (size := resolution_of(part)) is not None}
    by_size = colors(sorted(set(sizes.values())))
    others = iter(("#444444", ACCENT, "#c77700", "#8e5bb0", "#808080", "#7f6a3b"))
    styles: dict[str, dict[str, Any]] = {}
    for part in parts:
        if part in sizes:
            styles[part] = {"color": by_size[sizes[part]], "linestyle": "-" if part.startswith("Enc") else "--"}
        else:
            styles[part] = {"color": next(others, "#808080"), "linestyle": ":"}
    return styles


def network_figure(spec: NetworkSpec, title: str) -> Any:
    """The blocks of a network to scale, and below them the inside of one block of the encoder and of the decoder.

    Every block is a rectangle as high as its resolution, its longest side, and as wide as its channels; dark ones end
    with self-attention.
    Inside a block, every token is as wide as the channels that leave it.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: without matplotlib.
    """
    figure = new_figure(12, 7.5)
    top, bottom = figure.subplots(2, 1, height_ratios=(2, 1.3))
    figure.suptitle(plot_label(title))
    _draw_blocks(top, spec)
    _draw_branches(bottom, spec)
    return figure


def network_blocks(spec: NetworkSpec) -> list[tuple[str, int, int, bool]]:
    """The blocks in the order in which they run: (side, resolution, output channels, attention)."""
    levels = list(enumerate(zip(spec.resolutions, spec.widths, strict=True)))
    blocks = []
    for level, (resolution, width) in levels:
        first = width if level == 0 else spec.widths[level - 1]
        attention = resolution in spec.attn_resolutions
        blocks.append(("enc", resolution, first, False))
        blocks += [("enc", resolution, width, attention)] * spec.num_blocks
    for level, (resolution, width) in reversed(levels):
        attention = resolution in spec.attn_resolutions
        if level == len(levels) - 1:
            blocks += [("dec", resolution, width, True), ("dec", resolution, width, False)]
        else:
            blocks.append(("dec", resolution, spec.widths[level + 1], False))
        blocks += [("dec", resolution, width, attention)] * (spec.num_blocks + 1)
    return blocks


def _draw_blocks(ax: Any, spec: NetworkSpec) -> None:
    patches = require("matplotlib.patches", extra="plot")
    unit = spec.widths[0] / 10  # channels per unit of width, so that ten units are the base width
    x, edges = 0.0, {"enc": [], "dec": []}
    for side, resolution, channels, attention in network_blocks(spec):
        width = channels / unit
        fill = ENCODER if side == "enc" else DECODER
        ax.add_patch(patches.Rectangle((x, -resolution / 2), width, resolution, facecolor=fill, edgecolor=INK, lw=0.6))
        if attention:
            mark = width / 5
            ax.add_patch(patches.Rectangle((x + width - mark, -resolution / 2), mark, resolution, facecolor=ATTENTION))
        edges[side].append((x + width / 2, resolution, channels))
        x += width + 4
    _label_levels(ax, spec, edges)
    ax.set_xlim(-4, x)
    ax.set_ylim(-0.75 * spec.resolutions[0], 0.75 * spec.resolutions[0])
    ax.set_axis_off()
    legend = [(ENCODER, "encoder"), (DECODER, "decoder"), (ATTENTION, "self-attention")]
    handles = [patches.Patch(facecolor=color, label=text) for color, text in legend]
    ax.legend(handles=handles, frameon=False, ncols=3, loc="upper center")


def _label_levels(ax: Any, spec: NetworkSpec, edges: Mapping[str, list[tuple[float, int, int]]]) -> None:
    for blocks in edges.values():
        for resolution, name, channels in zip(spec.resolutions, spec.level_names, spec.widths, strict=True):
            centers = [center for center, size, _ in blocks if size == resolution]
            text = f"{resolution}$^2$ x {channels}" if isinstance(spec.resolution, int) else f"{name}, {channels}"
            ax.text(sum(centers) / len(centers), -resolution / 2 - 2, text, ha="center", va="top", fontsize=8)


def _draw_branches(ax: Any, spec: NetworkSpec) -> None:
    patches = require("matplotlib.patches", extra="plot")
    width = spec.widths[0]
    sides = {"encoder block": (spec.tokens, width), "decoder block": (spec.decoder_tokens, 2 * width)}
    widest = max(channels for tokens, start in sides.values() for _, channels in branch_widths(spec, tokens, start))
    for row, (name, (tokens, start)) in enumerate(sides.items()):
        ax.text(0, 2.6 * row - 0.1, f"{name}\n{start} -> {width} channels", va="center", ha="left", fontsize=9)
        for column, (token, channels) in enumerate(branch_widths(spec, tokens, start)):
            height = 2.0 * channels / widest
            x, y = 2.2 + 1.3 * column, 2.6 * row - height / 2
            fill = MODULATION if token == "m" else ENCODER if row == 0 else DECODER
            ax.add_patch(patches.Rectangle((x, y), 0.9, height, facecolor=fill, edgecolor=INK, lw=0.6))
            ax.text(x + 0.45, 2.6 * row + 1.08, f"{token}\n{channels}", ha="center", va="top", fontsize=8)
    ax.set_xlim(0, 16)
    ax.set_ylim(4.1, -1.4)
    ax.set_axis_off()
    if spec.design in TOKEN_DESIGNS:
        used = dict.fromkeys((*spec.tokens, *spec.decoder_tokens))
        ax.set_title("   ".join(f"{token}: {TOKENS[token].what}" for token in used), fontsize=8, color=INK)


def branch_widths(spec: NetworkSpec, tokens: tuple[str, ...], start: int) -> list[tuple[str, int]]:
    """Tokens of a block at the finest level with the channels that leave them; configs A-E have an ADM block's."""
    width = spec.widths[0]
    if spec.design not in TOKEN_DESIGNS:
        return [(token, width if after else start) for token, after in ADM_BRANCH]
    return [(step.token, step.out_channels) for step in steps(tokens, start, width, spec.expansion)]
