"""The picture of the README, `results/speed.svg`, from `results/infer.json`: `python benchmarks/speed.py`."""

import argparse
import json
from pathlib import Path
from typing import Any

from arguments import parse
from unitgain.extras import require
from unitgain.files import atomic

COLOURS = {"plain": "#9aa0a6", "float32": "#4c78a8", "bfloat16": "#f58518", "float16": "#54a24b"}


def bars(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Times faster than plain EDM2-S, by network and batch, by mode."""
    found: dict[str, dict[str, float]] = {}
    for part, report in results.items():
        if part.startswith("batch"):
            for row in report["rows"]:
                network, mode = row["name"].split()
                if "+" not in mode:
                    found.setdefault(f"{network}\n{part}", {})[mode] = row["ratio"]
    return dict(sorted(found.items(), key=lambda item: (item[0].startswith("EDM2+"), item[0])))


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of ratios by network and precision."""
    matplotlib = require("matplotlib", extra="plot")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "unitgain"  # the same figures make the same file
    plots = require("matplotlib.pyplot", extra="plot")
    groups = bars(results)
    modes = [mode for mode in COLOURS if any(mode in group for group in groups.values())]
    width = 0.8 / len(modes)
    figure, axes = plots.subplots(figsize=(8, 3.6), layout="constrained")
    for index, mode in enumerate(modes):
        places = [place for place, group in enumerate(groups.values()) if mode in group]
        heights = [group[mode] for group in groups.values() if mode in group]
        lefts = [place + (index - (len(modes) - 1) / 2) * width for place in places]
        label = "plain, float32" if mode == "plain" else f"prepared, {mode}"
        drawn = axes.bar(lefts, heights, width * 0.92, color=COLOURS[mode], label=label)
        axes.bar_label(drawn, fmt="%.1f", padding=2, fontsize=9)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylabel("images per second;\nplain EDM2-S of that batch = 1")
    axes.set_ylim(0, 1.15 * max(max(group.values()) for group in groups.values()))
    axes.spines[["top", "right"]].set_visible(False)
    where = results["machine"]
    threads = f"{where['threads']} thread{'s' * (where['threads'] != 1)}"
    axes.set_title(f"3x64x64, 1000 classes: {where['processor']}, {threads}", fontsize=10, loc="left")
    figure.legend(loc="outside lower center", ncols=len(modes), frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    plots.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    args = parse(parser, arguments)
    path = args.folder / "infer.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if not bars(results):
        parser.error(f"{path} is not there, or of another form: run benchmarks/infer.py first")
    draw(results, args.folder / "speed.svg")
    print(f"wrote {args.folder / 'speed.svg'}")


if __name__ == "__main__":
    main()
