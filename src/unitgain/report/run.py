"""The report of a run, finished or not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from unitgain.metrics.metric import higher_is_better
from unitgain.report.curves import by_bucket, by_part, images_by_level, noise_levels, over_training, short
from unitgain.report.history import History, exp_u, pooled
from unitgain.report.page import MOST, dials, page, paragraph, picture, plot, side_by_side, table, tiles
from unitgain.report.samples import Drawing
from unitgain.serial import to_dict
from unitgain.text import evenly, span
from unitgain.trust import is_number

WIDTH = 992  # pixels of the page
ROWS = 8  # of tables over time
LAST = 10  # ticks of the table of noise levels
# What to look for, before what it is.
SAMPLES = (
    "Move along the bars by clicks or with the arrow keys. Does the run still get better, or has it come to rest? "
    "At which length of the average do the drawn pictures come nearest to the real ones?"
)
LOSS = (
    "A curve that still falls has more to learn, a level one has come to rest, and jumps mean trouble. Mean per "
    "tick; the first ticks may lie above (EDM2, Eq. 21)."
)
RATE = "It should rise in the beginning, and then fall as planned (EDM2, Eq. 67)."
LEVELS = (
    "Curves should sink from one time to the next, the lower the better: 1 is a network that knows nothing. Where "
    "the dashed line lies on the last curve, the learned weighting is right. Shown is the denoising error "
    "lambda(sigma) (D - y)^2 per pixel, and exp u(sigma)."
)
WHERE = "Where the images of training went: noise levels that have hardly any are hardly learned."
GRADIENT = (
    "A line that shoots up names the part that is in trouble. Root mean square of the gradient, in the last step of "
    "each tick."
)
WEIGHT = (
    "Lines at 1 where forced weight normalization keeps them there; without it they may grow. Root mean square of "
    "the weights that this step began with."
)
UPDATE = (
    "A part whose line lies far below the others learns slower than they do. What the step changed, relative to the "
    "weights."
)
MEAN = (
    "Lines that stay level are of a network that keeps its magnitudes. Root mean square of a feature, the mean over "
    "those of a resolution."
)
LARGEST = "A line that keeps growing is a feature that runs away. The largest root mean square of a feature."


def run_page(
    history: History,
    drawings: Sequence[Drawing],
    note: str = "",
    *,
    lengths: Sequence[Drawing] = (),
    real: Image.Image | None = None,
    first: Sequence[tuple[str, str]] = (),
    title: str = "",
) -> str:
    """The report as HTML.

    Args:
        history: of the run.
        drawings: samples over time, in order.
        note: what is to be said of them: how they were drawn, or why there are none.
        lengths: samples over EMA lengths, in order.
        real: pictures of the data.
        first: title and HTML of parts that come before all others.
        title: of the page; by default the name of the run.
    """
    sections = [
        *first,
        ("Samples", _samples(drawings, note, lengths, real)),
        ("Loss", _loss(history)),
        ("Loss by noise level", _levels(history)),
        ("Metrics", _metrics(history)),
        ("Gradients, weights and updates", _parts(history)),
        ("Activations", _activations(history)),
        ("The machine", _machine(history)),
        ("Gradients that were not finite", _nonfinite(history)),
        ("Settings", _settings(history)),
    ]
    title = title or f"Run {history.folder.resolve().name}"
    return page(title, _lead(history), [part for part in sections if part[1]])


def _lead(history: History) -> str:
    config = history.config
    recipe = "" if config is None else f" Recipe {config.recipe.name} on {config.data}."
    done = f"{history.nimg:,} of {history.duration:,} images"
    seconds = sum(row["seconds"] for row in history.ticks)
    took = f", in {span(seconds)} of training" if seconds else ""
    why = "" if history.reason is None else f", by: {history.reason}"
    states = {
        "finished": f"Finished: {done}{took}.",
        "training": f"In training: {done}{took}; {span(history.left or 0.0)} left.",
        "starting": "Being set up: no statistics yet.",
        "stopped": f"Stopped at {done}{took}{why}.",
    }
    return states[history.status] + recipe


def _samples(drawings: Sequence[Drawing], note: str, lengths: Sequence[Drawing], real: Image.Image | None) -> str:
    shown = []
    if drawings:
        over = {short(one.nimg): picture(_fitting(one.image), f"{one.nimg:,} images") for one in drawings[-MOST:]}
        shown.append(_slider("time", "Drawn, after so many images of training", over))
    if lengths:
        own = [one for one in lengths if one.length is not None]
        over = {f"{one.length:g}": picture(_fitting(one.image), f"EMA length {one.length:g}") for one in own[:MOST]}
        shown.append(_slider("length", "Drawn at the end, with averages of these lengths", over))
    if real is not None:
        shown.append(picture(_fitting(real), "Real pictures, picked at random"))
    told = paragraph(SAMPLES) if drawings or lengths else ""
    return told + (tiles(*shown) if shown else "") + (paragraph(note) if note else "")


def _slider(name: str, title: str, figures: Mapping[str, str]) -> str:
    """Figures by their stops, the last one first."""
    places = {(number,): figure for number, figure in enumerate(figures.values())}
    return dials(name, {title: list(figures)}, places, [len(figures) - 1])


def _fitting(image: Image.Image) -> Image.Image:
    """The picture, no wider than the page: browsers do not shrink well what they are to enlarge in sharp pixels."""
    if image.width <= WIDTH:
        return image
    return image.resize((WIDTH, max(round(image.height * WIDTH / image.width), 1)), Image.Resampling.LANCZOS)


def _loss(history: History) -> str:
    if not history.ticks:
        return paragraph("No statistics yet: the first line comes when a tick is done.")
    nimg, loss = history.series("loss")
    figures = [plot(over_training(nimg, loss, "loss", robust=True), LOSS)] if loss else []
    figures.append(plot(over_training(*history.series("lr"), "learning rate", zero=True), RATE))
    return tiles(*figures)


def _levels(history: History) -> str:
    ticks = [row for row in history.ticks if "noise_levels" in row]
    if not ticks:
        return ""
    levels = pooled(ticks[-LAST:])
    assert levels is not None
    u = levels["u"] or [None] * len(levels["ln_sigma"])
    rows = [
        (f"{math.exp(place):.3g}", _text(error), _text(exp_u(v)), images)
        for place, error, v, images in zip(levels["ln_sigma"], levels["error"], u, levels["images"], strict=True)
    ]
    figures = tiles(plot(noise_levels(ticks), LEVELS), plot(images_by_level(ticks), WHERE))
    return figures + table(("sigma", "error", "exp u", f"images in the last {min(LAST, len(ticks))} ticks"), rows)


def _metrics(history: History) -> str:
    rows = history.metrics
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name, value in row["metrics"].items() if is_number(value)))
    figures = []
    for name in names:
        known = [row for row in rows if is_number(row["metrics"].get(name))]
        values = [row["metrics"][name] for row in known]
        told, higher = f"Last: {values[-1]:.4g}", higher_is_better(name)
        if higher is not None:
            best = max(values) if higher else min(values)
            told = f"{'Higher' if higher else 'Lower'} is better. {told}, best: {best:.4g}"
        figures.append(plot(over_training([row["nimg"] for row in known], values, name), told))
    cells = [(row["nimg"], *(_text(row["metrics"].get(name)) for name in names)) for row in evenly(rows, ROWS)]
    return tiles(*figures) + table(("images seen", *names), cells)


def _parts(history: History) -> str:
    ticks = [row for row in history.ticks if "parts" in row]
    if not ticks:
        return ""
    shown = {
        "gradient": ("gradient", GRADIENT),
        "weight": ("weight", WEIGHT),
        "ratio": ("update / weight", UPDATE),
    }
    return tiles(*(plot(by_part(ticks, key, label), text) for key, (label, text) in shown.items()))


def _activations(history: History) -> str:
    if not history.magnitudes:
        return ""
    shown = {"activation_mean": ("activations, mean", MEAN), "activation_max": ("activations, largest", LARGEST)}
    return tiles(*(plot(by_bucket(history.magnitudes, key, label), t) for key, (label, t) in shown.items()))


def _machine(history: History) -> str:
    shown = (
        ("images_per_second", "images/s", 1.0, "Dips are of others who use the machine, or of evaluations. "),
        ("peak_share", "share of the peak, %", 100.0, "The higher, the better the hardware is used. "),
        ("data_wait_share", "waiting for data, %", 100.0, "Should stay near 0; more --workers help. "),
        ("memory_bytes", "memory, GiB", 2.0**-30, "Should run level: a line that climbs ends where memory does. "),
    )
    figures = []
    for key, label, factor, look in shown:
        nimg, values = history.series(key)
        if values:
            scaled = [value * factor for value in values]
            figures.append(plot(over_training(nimg, scaled, label, zero=True), f"{look}Last: {scaled[-1]:.4g}"))
    if not figures:
        return ""
    about = (
        "The peak is what matrix products of the network's precision reached on these processes when the run was "
        "started. Multiply-adds are counted as one; a step takes three forward passes' worth, four with --recompute."
    )
    return tiles(*figures) + paragraph(about)


def _nonfinite(history: History) -> str:
    if not history.nonfinite:
        return paragraph("None.") if history.ticks else ""
    rows = [
        (row["nimg"], sum(row["nonfinite"].values()), ", ".join(list(row["nonfinite"])[:3]))
        for row in evenly(history.nonfinite, ROWS)
    ]
    steps = [row.get("nonfinite_steps", 0) for row in history.ticks]
    figure = over_training([row["nimg"] for row in history.ticks], steps, "steps", zero=True) if history.ticks else ""
    said = f"{len(history.nonfinite):,} steps; the values were replaced by 0."
    shown = plot(figure, "Steps with such values per tick") if figure else ""
    return paragraph(said) + shown + table(("images seen", "values", "first tensors"), rows)


def _settings(history: History) -> str:
    if history.config is None:
        return ""
    settings = to_dict(history.config)
    recipe = settings.pop("recipe")
    network = recipe.pop("network")
    recipe.pop("scores", None)
    return side_by_side(
        table(("recipe", ""), _pairs(recipe)),
        table(("network", ""), _pairs(network)),
        table(("run", ""), _pairs(settings)),
    )


def _pairs(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{name}.")
        elif value not in (None, "", [], ()):
            yield prefix + name, str(value)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
