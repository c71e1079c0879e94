"""The picture and the tables of docs/speed.md: `python benchmarks/speed.py`, after `infer.py`.

Draws `results/speed.svg` from `results/infer.json`, and puts the tables of results between the marks of the page.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from machine import RESULTS
from unitgain.extras import require
from unitgain.files import atomic, write_text

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
COLOURS = {"plain": "#9aa0a6", "float32": "#4c78a8", "bfloat16": "#f58518", "float16": "#54a24b"}
MARK = re.compile(r"(<!-- results/(?P<name>\w+)\.md(?P<section>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


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


def filled(text: str, folder: Path) -> str:
    """The page with every marked place filled from the results that are there.

    `<!-- results/infer.md -->` takes the whole file without its title, `<!-- results/infer.md Wanted -->` one section.
    """

    def fill(match: re.Match[str]) -> str:
        path = folder / f"{match['name']}.md"
        if not path.exists():
            return match[0]
        content = path.read_text(encoding="utf-8").partition("\n")[2].strip()
        if section := match["section"].strip():
            parts = re.split(r"^## ", content, flags=re.MULTILINE)
            named = [part.partition("\n")[2].strip() for part in parts if part.partition("\n")[0].strip() == section]
            if not named:
                raise SystemExit(f"{path} has no section {section!r}")
            content = named[0]
        else:
            content = re.sub(r"^## ", "### ", content, flags=re.MULTILINE)
        return f"{match[1]}\n{content}\n\n{match[4]}"

    return MARK.sub(fill, text)


def main(arguments: list[str] | None = None) -> None:
    """Draw the picture and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="of the results")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(arguments)
    path = args.folder / "infer.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if not bars(results):
        parser.error(f"{path} is not there, or of another form: run benchmarks/infer.py first")
    draw(results, args.folder / "speed.svg")
    write_text(args.page, filled(args.page.read_text(encoding="utf-8"), args.folder))
    print(f"wrote {args.folder / 'speed.svg'} and {args.page}")


if __name__ == "__main__":
    main()
