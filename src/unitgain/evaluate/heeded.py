"""Whether a network heeds what it is told: rows of data drawn with their conditions, with another's and with none."""

from collections.abc import Sequence

from torch import Tensor

from unitgain.arch.values import Conditions
from unitgain.data.dataset import Dataset
from unitgain.denoiser import Denoiser
from unitgain.draw.images import DEFAULTS, sample_arrays
from unitgain.draw.rows import DataRows
from unitgain.draw.settings import DrawSettings
from unitgain.given import several
from unitgain.guide import Guided
from unitgain.serial import suggest


def draw_heeded(
    denoiser: Denoiser | Guided,
    dataset: Dataset,
    rows: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    first: int = 0,
    settings: DrawSettings = DEFAULTS,
    batch: int = 64,
) -> dict[str, Tensor]:
    """What a network draws for rows of data, best held out, by what it is told: `right`, `wrong` or `none`.

    Row i of them starts from the noise of seed `first` + i in all three, and keeps its class, where data and network
    have the same. `wrong` tells it what the row half-way around has, so that what is told is as likely as ever, only of
    something else. Whatever is measured of the three, a network that heeds its conditions differs in it:

        drawn = draw_heeded(denoiser, held_out, range(64))
        errors = {told: metric(samples) for told, samples in drawn.items()}

    Args:
        denoiser: in evaluation mode, guided or not.
        dataset: has conditions.
        rows: numbers of at least two of its rows.
        names: of conditions that are exchanged or left out, while the others stay right; None for all.
        first: seed of the first row, for further draws of the same rows.
        settings: sampler and steps; class and conditions are those of the data.
        batch: samples in flight at a time; does not change them.

    Returns:
        Samples `[N, C, *size]` for each, on the CPU: 8-bit pixels of pictures, else the numbers of the data.

    Raises:
        ValueError: if there is one row only, or none of such a number, or data or network lack a condition, or `names`
            has none.
    """
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} rows: the wrong conditions are those of other rows, so give two or more")
    half = len(rows) // 2
    right = DataRows(dataset, rows).of(range(len(rows)), denoiser.spec, denoiser.classes)
    others = DataRows(dataset, [*rows[half:], *rows[:half]]).of(range(len(rows)), denoiser.spec, denoiser.classes)
    changed = right.values.keys() if names is None else _chosen(names, right)
    kept = right.only({"label", *right.values} - changed)
    told = {"right": right, "wrong": _joined(kept, others.only(changed)), "none": kept}
    label = None if right.label is None else right.label.tolist()
    settings = settings.replace(label=None, conditions=None)
    return {
        name: sample_arrays(
            denoiser,
            range(first, first + len(rows)),
            label=label,
            conditions=one if one.values else None,
            settings=settings,
            batch=batch,
        )
        for name, one in told.items()
    }


def _chosen(names: Sequence[str], known: Conditions) -> set[str]:
    chosen = set(several(names, "names"))
    if not chosen:
        raise ValueError("names = []: no condition would be exchanged or left out; name some, or None for all")
    for name in chosen:
        if name not in known.values:
            raise ValueError(f"no condition {name!r} that data and network have; {suggest(name, known.values)}")
    return chosen


def _joined(first: Conditions, second: Conditions) -> Conditions:
    """What both have, with the label of the first."""
    return Conditions(first.label, {**first.masks, **second.masks}, **first.values, **second.values)
