"""Tables, pictures and verdicts of what is there: `python benchmarks/evidence/report.py --folder runs/evidence`.

Writes `evidence.md`, the results themselves (`evidence.jsonl`) and pictures into `benchmarks/results`.
"""

import argparse
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cells import Train
from claims import main_runs
from criteria import LABELS, NOT_RUN, Finding, short
from matplotlib.figure import Figure
from run import Results
from scaled import GROWING, Run, Scale
from sets import EMOJI_CLASSES, FASHION_CLASSES, SETS
from verdicts import FINDINGS, rates

from unitgain.analysis.plots import magnitude_figure
from unitgain.figures import save
from unitgain.files import write_text

RESULTS = Path(__file__).parents[1] / "results"
COMMENTS = Path(__file__).with_name("comments.md")  # a section per claim: what was found out about its result
TITLES = {
    "configs": "Each config A to G is better than the one before (EDM2, Table 1)",
    "half": "EDM2+ halves the cost and keeps the quality (EDM2+, Tables 1 and 2)",
    "order": "Depthwise convolutions alone are worst, the bottleneck is best (EDM2+, Tables 1 and 2)",
    "magnitudes": "Magnitudes grow in C, of weights alone in D, not in E and G (EDM2, Fig. 3)",
    "optimum": "The best EMA length differs between configs, and its optimum sharpens (EDM2, Fig. 5a)",
    "time": "The best length grows with training time (EDM2, Figs. 5c and 12)",
    "rate": "The best length falls with the learning rate (EDM2, Section 4, Fig. 13)",
    "tensors": "Tensors of B want lengths of their own, those of G do not (EDM2, Fig. 5b)",
    "guidance": "Guidance shortens the best EMA (EDM2, Fig. 6)",
    "guides": "A small unconditional guide is enough (EDM2, Table 4)",
    "posthoc": "Reconstructed averages are those that tracking gives (EDM2, Section 3.2)",
}
READING = """FD-EffNet and FD-classes are Frechet distances to the test split, the lower the better: in features of a
network that was trained on ImageNet, and of a small classifier of the set. Two numbers with a comma between them are
seeds 0 and 1. Scores are of 3,000 images; lengths are chosen and rates compared with 1,000, which alone raises both
(compare the floors below)."""
MARKERS = ".^"  # a round of colours each
COMMAND = "python benchmarks/evidence/run.py --only"


def table(finding: Finding) -> list[str]:
    """Lines of a table and what is below it."""
    lines = []
    if finding.rows:
        lines += ["", f"| {' | '.join(finding.header)} |", f"|{'---|' * len(finding.header)}"]
        lines += [f"| {' | '.join(LABELS.get(str(cell), str(cell)) for cell in row)} |" for row in finding.rows]
    return [*lines, *([""] if finding.notes else []), *(f"- {note}" for note in finding.notes)]


def draw(finding: Finding, path: Path) -> bool:
    """Draw the curves of a finding; whether there are any."""
    if not any(finding.curves.values()):
        return False
    figure = Figure(figsize=(4.2 * len(finding.curves), 3.4), layout="constrained")
    axes = figure.subplots(1, len(finding.curves), squeeze=False)[0]
    for ax, (panel, lines) in zip(axes, finding.curves.items(), strict=True):
        for place, (label, points) in enumerate(lines.items()):
            ax.plot(*zip(*points, strict=True), marker=MARKERS[place // 10], label=label, linewidth=1.3, markersize=5)
        what = f"{finding.quantity}, by {LABELS[panel]}" if finding.quantity else LABELS[panel]
        ax.set(xlabel=finding.axis, ylabel=what, yscale="log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
        if isinstance(next(x for points in lines.values() for x, _ in points), str):
            ax.tick_params("x", rotation=45)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=7)
    save(figure, path)
    return True


def section(title: str, finding: Finding, name: str, folder: Path) -> list[str]:
    """A heading, the verdict, the table and the picture."""
    lines = ["", f"## {title}", ""]
    if finding.verdict:
        lines.append(f"Verdict: **{finding.verdict}**" + (f" (`{COMMAND} {name}`)" if name in FINDINGS else ""))
    lines += table(finding)
    if draw(finding, folder / f"evidence-{name}.svg"):
        lines += ["", f"![{title}](evidence-{name}.svg)"]
    return lines


def comments(text: str) -> dict[str, list[str]]:
    """Paragraphs by claim, of a page with a heading `## CLAIM` above each."""
    parts = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return {name.strip(): ["", *body.strip().splitlines()] for name, _, body in parts}


def magnitude_curves(results: Mapping[str, Mapping[str, Any]], scale: Scale, folder: Path) -> list[str]:
    """The picture of magnitudes over training, of the first seed of each config that is there."""
    found = {}
    for name in GROWING:
        trained: list[tuple[Run, int]] = [(run, scale.images) for run in main_runs(name, scale, results)[:1]]
        for run, nimg in trained:
            rows = results.get(Train(run, nimg).key, {}).get("magnitudes")
            if rows:
                found[short(name)] = rows
    if not found:
        return []
    save(magnitude_figure(found), folder / "evidence-magnitudes.svg")
    return ["", "![Magnitudes over training](evidence-magnitudes.svg)"]


def picture_lines(rows: list[dict[str, Any]], source: Path, folder: Path) -> Iterator[str]:
    """The newest picture of each set, and how it was made."""
    newest = {row["run"]: row for row in rows if row["kind"] == "picture" and "file" in row}
    for name, row in newest.items():
        target = f"evidence-{name}.png"
        took = [one for one in rows if one["kind"] == "train" and one.get("run") == name and one["nimg"] <= row["nimg"]]
        took = [one for one in took if "images" in one]
        share = sum(one["processor"] for one in took) / sum(one["images"] for one in took)
        shutil.copyfile(source / "pictures" / row["file"], folder / target)
        hours = share * row["nimg"] / 3600  # what was trained twice, after a process was killed, has no row
        data = name.removeprefix("pictures-")
        about = [f"`{data}`, after {row['nimg']:,} images: {hours:.1f} hours of processor time in {row['precision']}"]
        about += [f"EMA length {row['length']:g}"]
        if row["guide_nimg"]:
            about += [f"guided by itself after {row['guide_nimg']:,} (weight {row['guidance']:g})"]
        yield from ("", f"{', '.join(about)}. {seen_in(data)}")
        if "real" in row:
            yield named_line(row, rows)
        yield from ("", f"![Samples of {name}]({target})")
    if not newest:
        yield "**not run yet** (`python benchmarks/evidence/run.py --only pictures`)"


CREDIT = (
    "Drawings, scaled down: Noto (Google, Apache-2.0), [Twemoji](https://github.com/jdecked/twemoji) and "
    "[EmojiOne 2](https://www.npmjs.com/package/emojione/v/2.2.7) (both [CC BY 4.0]"
    "(https://creativecommons.org/licenses/by/4.0/)), Fluent (Microsoft, MIT)."
)


def seen_in(data: str) -> str:
    """What the rows of a picture are."""
    if SETS[data].styled:
        return (
            "Every three rows are samples, the drawings that they are to be (kept from training: that emoji in that "
            f"style), and the nearest training images of the samples. {CREDIT}"
        )
    emoji = data.startswith("emoji")
    below = ", below each row of samples their nearest training images" if emoji else ""
    return f"A row per class{below}: {', '.join(EMOJI_CLASSES if emoji else FASHION_CLASSES)}."


def named_line(picture: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """How many of the samples, and of the real images, the judge names right."""
    same = ("run", "nimg", "length", "guidance", "guide_nimg")  # a guide has the length of what it guides
    cells = [row for row in rows if row["kind"] == "cell" and "values" in row]
    cell = [row for row in cells if all(row[key] == picture[key] for key in same)][-1]
    named, drawn = cell["values"]["accuracy"], cell["images"]
    return (
        f"Of the {drawn:,} samples that length and weight were chosen by, drawn of the same drawings, {named:.0%} are "
        "nearest to the one that they are to be, of all those kept from training, in features of the ImageNet network; "
        f"of the other styles' drawings of the same emoji, {picture['real']:.0%}; by chance, {1 / picture['kept']:.0%}."
    )


def totals(rows: list[dict[str, Any]]) -> list[str]:
    """What it all took, and the floor."""
    trained = sum(row.get("images", 0) for row in rows if row["kind"] == "train")
    drawn = sum(row["images"] for row in rows if row["kind"] == "cell" and "values" in row)
    drawn += sum(2 * row["images"] for row in rows if row["kind"] == "compare" and "difference" in row)
    seconds, processor = (sum(row.get(name, 0) for row in rows) for name in ("seconds", "processor"))
    failed = [f"{row['key']}: {row['failed']}" for row in rows if "failed" in row]
    lines = [
        f"In all {trained:,} images trained and {drawn:,} drawn in {seconds / 3600:.2f} hours, summed over processes, "
        f"{processor / 3600:.2f} of them processor time. What killed processes had trained, and the training of "
        "judges, are not counted." + ("" if not failed else " Failed:")
    ]
    lines += [f"- {line}" for line in failed]
    for row in (row for row in rows if row["kind"] == "floor"):
        told = ", ".join(f"{LABELS.get(name, name)} {value:.4g}" for name, value in row["values"].items())
        lines += ["", f"The floor, {row['images']:,} training images against the test split: {told}."]
        lines += [f"Of the test images the classifier names {row['classifier']:.1%} right."]
    machines = [row["machine"] for row in rows if "machine" in row]
    told = dict.fromkeys(", ".join(f"{key} {value}" for key, value in one.items()) for one in machines)
    return [*lines, *(line for where in told for line in ("", f"Measured on: {where}."))]


def report(source: Path, folder: Path, scale: Scale) -> str:
    """Write the page and what belongs to it; its text."""
    results = Results(source / "results.jsonl")
    done, rows = results.done, results.rows
    said = comments(COMMENTS.read_text()) if COMMENTS.exists() else {}
    found = {name: finding(done, scale) for name, finding in FINDINGS.items()}
    partial = NOT_RUN in {finding.verdict for finding in found.values()}
    lines = [
        "# The claims of both papers, measured again in small",
        "",
        "By the [protocol](../evidence/README.md), which was there before the first run and says what changed since."
        + (" **Partial**: what is not run yet says so." if partial else ""),
        "",
        READING,
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| {TITLES[name]} | {finding.verdict} |" for name, finding in found.items()),
        "",
        *totals(rows),
        "",
        "## Pictures",
        "",
        *picture_lines(rows, source, folder),
        *said.get("pictures", []),
    ]
    lines += section("Learning rates", rates(done, scale), "rates", folder)
    for name, finding in found.items():
        lines += section(TITLES[name], finding, name, folder)
        if name == "magnitudes":
            lines += magnitude_curves(done, scale, folder)
        lines += said.get(name, [])
    text = "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"
    write_text(folder / "evidence.md", text)
    write_text(folder / "evidence.jsonl", results.path.read_text() if results.path.exists() else "")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    print(report(args.folder, args.results, Scale()))


if __name__ == "__main__":
    main()
