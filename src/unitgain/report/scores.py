"""Scores against what they cost, published and measured (EDM2, Figs. 1 and 8-10, Table 4; EDM2+, Fig. 1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unitgain.analysis.counts import Cost, recipe_costs, sampling_teraflops, training_zettaflops
from unitgain.arch.spec import NetworkSpec, check_guide
from unitgain.extras import require
from unitgain.figures import colors, new_figure
from unitgain.recipe import Recipe
from unitgain.recipes import RECIPES, recipe
from unitgain.text import brief, plot_label
from unitgain.trust import Limits, is_number, parse_json, read_regular

if TYPE_CHECKING:
    from unitgain.checkpoint.facts import SnapshotHeader

PAPERS = {
    "edm2": ("edm2-img512-config-", "edm2-img512-", "edm2-img64-"),
    "edm2plus": ("edm2plus-img64-config-", "edm2plus-img64-"),
}
"""Families of recipes by paper: what their names begin with, configs first."""

BESIDE = {"edm2plus": ("edm2-img64-",)}
"""Families of the other paper that the figure of one compares with."""

STARRED = {"d-e4": "D*", "e-k7": "E°", "f-bottleneck": "F*", "g-bottleneck": "G*"}
"""Configs of EDM2+ as Tables 1 and 2 call them, where that is no letter alone."""

AXES = {
    "gflops": "GFLOPs of an evaluation",
    "parameters": "parameters",
    "sampling_teraflops": "Tflops of an image",
    "training_zettaflops": "Zflops of training",
}
"""What can be counted, and how it is called: Fig. 1, Fig. 8, Fig. 9 and Fig. 10 of EDM2."""

STYLES = {"": "o-", "guided": "s--", "autoguided": "^:"}  # of points and lines, by how they are guided
MEASURED = Limits(max_item_bytes=2**24)  # of a file with measurements


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a network costs, that of what guides it counted in.

    Attributes:
        parameters: of both.
        gflops: of one evaluation of both, in 10^9 operations.
        sampling_teraflops: of one image, in 10^12.
        training_zettaflops: of training the network itself, in 10^21; None where nobody knows how long it trained.
    """

    parameters: int
    gflops: float
    sampling_teraflops: float
    training_zettaflops: float | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A score and what it costs.

    Attributes:
        family: of what it is compared with, one line in a picture.
        name: within the family.
        metric: its name.
        value: of the metric.
        price: of the network.
        guided: how; empty for not at all.
        joined: a line joins it with the others of its family, as it does sizes and not configs.
    """

    family: str
    name: str
    metric: str
    value: float
    price: Price
    guided: str = ""
    joined: bool = True


def recipe_price(what: Recipe, guide: str = "") -> Price:
    """What a recipe's network costs, parameters counted as the papers do: with those of u(sigma).

    Args:
        what: a recipe of `unitgain.recipes`.
        guide: name of the guide's recipe; empty for none.

    Raises:
        ValueError: if there is no such guide, naming the nearest, or it cannot guide this network.
    """
    other = None
    if guide:
        check_guide(what.network, recipe(guide).network)
        other = _cost(recipe(guide))
    return _price(_cost(what), what.latents, what.duration, other)


def paper_points(paper: str) -> list[Point]:
    """What the figures of a paper show: scores of its configs and sizes, and those of what it compares them with.

    Args:
        paper: of `PAPERS`.
    """
    own = published(PAPERS[paper])
    metrics = {point.metric for point in own}
    return [*own, *(point for point in published(BESIDE.get(paper, ())) if point.metric in metrics)]


def published(families: Iterable[str]) -> list[Point]:
    """What the papers report of recipes.

    Args:
        families: what the names of the recipes begin with; each recipe with labels belongs to the first that fits.
    """
    points: dict[str, list[Point]] = {}
    for family in families:
        joined = not family.endswith("-config-")
        for name, what in RECIPES.items():
            if name.startswith(family) and name not in points and what.network.label_dim:
                own = name.removeprefix(family)
                points[name] = [
                    Point(
                        family=family.rstrip("-"),
                        name=own if joined else STARRED.get(own, own.upper()),
                        metric=score.metric,
                        value=score.value,
                        price=recipe_price(what, score.guide),
                        guided=_guidance(what.network, recipe(score.guide).network) if score.guide else "",
                        joined=joined,
                    )
                    for score in what.scores
                ]
    return [point for found in points.values() for point in found]


def measured(path: Path) -> list[Point]:
    """What `unitgain metrics NETWORK --out FILE` wrote, with the cost of the networks that drew the images.

    The best of repeated evaluations counts, as in the papers. The family is the name of the file.

    Raises:
        FileNotFoundError: if a network that is named there is not there any more.
        ValueError: if it is no such file, or does not say which network drew the images.
        SnapshotError: if the network is damaged.
    """
    data = parse_json(read_regular(path, MEASURED), str(path))
    rows = data if isinstance(data, list) else [data]
    return [_measured(path, row) for row in rows]


def score_figure(points: Sequence[Point]) -> Any:
    """Scores against each cost: a row per metric, a column per cost, a line per family and kind of guidance.

    Configs of a family are points without a line, with their names to the left.

    Returns:
        A matplotlib figure; costs are logarithmic.

    Raises:
        ImportError: without matplotlib.
        ValueError: if there are no points.
    """
    if not points:
        raise ValueError("there are no scores to draw")
    ticker = require("matplotlib.ticker", extra="plot")
    metrics = list(dict.fromkeys(point.metric for point in points))
    figure = new_figure(3.4 * len(AXES), 3.4 * len(metrics))
    panels = figure.subplots(len(metrics), len(AXES), squeeze=False, sharey="row")
    by_family = colors(list(dict.fromkeys(point.family for point in points)))
    for row, metric in zip(panels, metrics, strict=True):
        own = [point for point in points if point.metric == metric]
        for axes, (cost, title) in zip(row, AXES.items(), strict=True):
            for family, color in by_family.items():
                for guided in STYLES:
                    line = [point for point in own if point.family == family and point.guided == guided]
                    _draw_line(axes, line, cost, color)
            axes.set_xscale("log")
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(ticker.EngFormatter(sep="") if cost == "parameters" else "{x:g}")
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())
            axes.set_xlabel(title)
            axes.grid(alpha=0.25)
        row[0].set_ylabel(plot_label(metric))
    lines = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
    figure.legend(handles=[*lines.values()], loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _guidance(main: NetworkSpec, guide: NetworkSpec) -> str:
    """Autoguided by a network that is told as much, guided by one that is told less."""
    ours, theirs = ((spec.label_dim, {each.name for each in spec.conditions}) for spec in (main, guide))
    return "autoguided" if ours == theirs else "guided"


def _draw_line(axes: Any, points: Sequence[Point], cost: str, color: Any) -> None:
    places = [(getattr(point.price, cost), point) for point in points if getattr(point.price, cost)]
    if not places:
        return
    one = points[0]
    label = ", ".join(filter(None, (one.family, one.guided)))
    x, y = [place for place, _ in places], [point.value for _, point in places]
    look, size = (STYLES[one.guided], 4) if one.joined else ("D", 3)
    axes.plot(x, y, look, markersize=size, linewidth=1, color=color, label=plot_label(label))
    names: dict[tuple[float, float], list[str]] = {}
    for place, point in places:  # those that lie on each other have one text
        near = (at for at in names if at[1] == point.value and abs(at[0] / place - 1) < 0.01)
        names.setdefault(next(near, (place, point.value)), []).append(point.name)
    offset, side = ((3, 3), "left") if one.joined else ((-4, -2), "right")
    for at, found in names.items():
        text = plot_label(", ".join(found))
        axes.annotate(text, at, offset, textcoords="offset points", fontsize=6, ha=side)


def _cost(what: Recipe) -> Cost:
    """Of one evaluation, with the parameters that training learns."""
    costs = recipe_costs()[what.name]
    return replace(costs.evaluation, parameters=costs.parameters)


def _price(cost: Cost, latents: bool, images: int, guide: Cost | None) -> Price:
    other = 0.0 if guide is None else guide.gflops
    return Price(
        parameters=cost.parameters + (0 if guide is None else guide.parameters),
        gflops=cost.gflops + other,
        sampling_teraflops=sampling_teraflops(cost.gflops, latents, other),
        training_zettaflops=training_zettaflops(cost.gflops, images) if images else None,
    )


def _measured(path: Path, row: Any) -> Point:
    """The point of one measurement."""
    from unitgain.analysis.cost import network_cost
    from unitgain.data.encoder import LatentEncoder, encoder_from_dict

    try:
        record = row["records"][0]
        metric, value, source = row["metric"], row["best"], record["source"]
        name, sampler = source["snapshot"], source["sampler"]
        right = isinstance(metric, str) and is_number(value) and isinstance(sampler, dict)
    except (KeyError, IndexError, TypeError):
        right = False
    if not right:
        raise ValueError(f"{path} is no list of measurements: `unitgain metrics NETWORK --out FILE` writes such")
    header, guide = _header(path, name), source.get("guide")
    cost, other, guided = network_cost(header.network), None, ""
    if sampler.get("guidance", 1) != 1:
        if guide in (None, "self"):  # evaluated twice
            other, guided = replace(cost, parameters=0), "guided"
        else:
            by = _header(path, guide).network
            other, guided = network_cost(by), _guidance(header.network, by)
    latents = isinstance(encoder_from_dict(header.encoder), LatentEncoder)
    return Point(
        family=path.stem,
        name=header.recipe,
        metric=metric,
        value=float(value),
        price=_price(cost, latents, header.nimg, other),
        guided=guided,
    )


def _header(path: Path, name: object) -> "SnapshotHeader":
    """What a network says of itself that a file with measurements names; nothing is fetched because a file says so."""
    from unitgain.checkpoint.snapshot import Snapshot

    if not isinstance(name, str):
        raise ValueError(f"{path} does not say which network drew the images: measure the network, not its images")
    if not Path(name).is_file():
        raise FileNotFoundError(f"{path} is of the network {brief(name)}, which is not there: its cost is not known")
    with Snapshot(Path(name)) as snapshot:
        return snapshot.header
