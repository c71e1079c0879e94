"""What images are drawn for: conditions of rows of data, which seeds get in turn."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from unitgain.arch.values import Conditions
from unitgain.classes import Classes
from unitgain.data.images import pairs
from unitgain.data.order import indices
from unitgain.given import settle, several, whole
from unitgain.sample.seeds import Between, Seed
from unitgain.text import brief, ranges

if TYPE_CHECKING:
    from unitgain.arch import NetworkSpec
    from unitgain.data.dataset import Dataset
    from unitgain.draw.settings import DrawSettings

AT_ONCE = 256  # rows whose sequences are measured together
NONE = "none"  # instead of data: nothing but a class


@dataclass(frozen=True, eq=False)
class DataRows:
    """Rows of data: seed s gets number s modulo how many there are.

    Args:
        dataset: with conditions, and perhaps labels.
        rows: numbers of the rows; None for all.

    Raises:
        ValueError: if there is no row, or none of such a number, or the data have no conditions.
    """

    dataset: "Dataset"
    rows: Sequence[int] | None = None

    def __post_init__(self) -> None:
        where, count = f"data {self.dataset.name}", len(self.dataset)
        if self.rows is not None and not isinstance(self.rows, range):
            settle(self, rows=[whole(row, "row") for row in several(self.rows, "rows")])
        if not self.dataset.condition_shapes:
            raise ValueError(f"{where} have no conditions, only images{' and labels' * bool(self.dataset.classes)}")
        if self.rows is not None and not len(self.rows):
            raise ValueError(f"{where}: no rows are named; there are {count}, 0 to {count - 1}")
        for row in self.rows or ():
            if not 0 <= row < count:
                raise ValueError(f"{where}: there is no row {row}, only 0 to {count - 1}")

    @classmethod
    def given(cls, conditions: Any) -> "DataRows":
        """Rows as they are, or all of a data set.

        Raises:
            ValueError: if it is neither; and as `DataRows`.
        """
        if isinstance(conditions, cls):
            return conditions
        if not hasattr(conditions, "conditions_of"):
            raise ValueError(f"conditions = {brief(conditions)}: expected the name of data, a data set or DataRows")
        return cls(conditions)

    @classmethod
    def open(cls, text: str) -> "DataRows":
        """As text has them: the name of data, all of them, or with rows behind it: DATA[7], DATA[0:16], DATA[3,5,7].

        Raises:
            ValueError: if it is none of these, or there are no such rows.
            DataError: if the data are damaged.
        """
        from unitgain.data.named import open_data

        name, rows = _split(text)
        dataset = open_data(name)
        return cls(dataset, None if rows is None else _numbers(rows, len(dataset)))

    @classmethod
    def mixed(cls, dataset: "Dataset") -> "DataRows":
        """All rows in an order that mixes them, always the same one: prepared data may have theirs class by class."""
        return cls(dataset, indices(0, len(dataset), len(dataset), 0).tolist())

    def __len__(self) -> int:
        return len(self.dataset) if self.rows is None else len(self.rows)

    def of(
        self, seeds: Sequence[Seed], spec: "NetworkSpec", names: tuple[str, ...] | None = None, label: bool = True
    ) -> Conditions:
        """What a network knows of the conditions of these seeds, with the label, where data and network have classes.

        Args:
            seeds: one per image.
            spec: of the network.
            names: of its classes, by which those of the data are found; None where they are not known.
            label: whether the label of the data is wanted.

        Raises:
            ValueError: if the data have none of the network's, a class of the rows is none of the network's, or there
                are points between seeds, and several rows.
        """
        known = [one.name for one in spec.conditions if one.name in self.dataset.condition_shapes]
        if not known:
            told = ", ".join(one.name for one in spec.conditions) or "none"
            raise ValueError(
                f"data {self.dataset.name} have {', '.join(self.dataset.condition_shapes)}; the network knows {told}"
            )
        rows = self.numbers(seeds)
        told = _padded(self.dataset.conditions_of(rows).only(known), self.longest)
        own = self.dataset.labels_of(rows) if label and spec.label_dim else None
        if own is None:
            return told
        try:
            places = Classes(spec.label_dim, names).carried(
                Classes(self.dataset.label_dim, self.dataset.classes), self.used
            )
        except ValueError as error:
            raise ValueError(
                f"data {self.dataset.name}: {error}; choose rows of its classes (DATA[0:16]), or name a class for all "
                "(--class)"
            ) from error
        return told.with_label(own.new_tensor([places[number] for number in own.tolist()]))

    def numbers(self, seeds: Sequence[Seed]) -> NDArray[np.int64]:
        """The numbers of the rows of these seeds.

        Raises:
            ValueError: if there are points between seeds, and several rows.
        """
        if len(self) == 1:
            return np.full(len(seeds), self.rows[0] if self.rows is not None else 0, dtype=np.int64)
        whole = [seed for seed in seeds if not isinstance(seed, Between)]
        if len(whole) < len(seeds):
            raise ValueError(
                "conditions go to seeds in turn, which points between seeds have none of: name one row for all, as "
                "DATA[3], or leave them out"
            )
        numbers = np.array([seed % len(self) for seed in whole], dtype=np.int64)
        return numbers if self.rows is None else np.array(self.rows, dtype=np.int64)[numbers]

    def beside(
        self,
        seeds: Sequence[Seed],
        pictures: UInt8[Tensor, "n c h w"],
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> UInt8[Tensor, "n c tall wide"]:
        """What was drawn of these seeds on the right of the real pictures of their rows; alone where these are others.

        Args:
            seeds: one per picture.
            pictures: that were drawn.
            decode: makes pictures of latents, as in `unitgain.data.sheet.draw`.
        """
        from unitgain.data.sheet import draw

        real = draw(self.dataset, self.numbers(seeds), decode)
        return pairs(real, pictures) if real.shape == pictures.shape else pictures

    @cached_property
    def used(self) -> list[int]:
        """The classes that rows are of."""
        rows = np.arange(len(self.dataset)) if self.rows is None else np.array(self.rows, dtype=np.int64)
        labels = self.dataset.labels_of(rows)
        return [] if labels is None else labels.unique().tolist()

    @cached_property
    def longest(self) -> dict[str, int]:
        """Tokens of the longest sequence of all these rows, by condition, where they differ.

        Sequences are padded to it, so that an image does not depend on which others are drawn with it.
        """
        ragged = [name for name, shape in self.dataset.condition_shapes.items() if shape[:1] == (None,)]
        rows = np.arange(len(self.dataset)) if self.rows is None else np.array(self.rows, dtype=np.int64)
        longest = dict.fromkeys(ragged, 0)
        for first in range(0, len(rows) if ragged else 0, AT_ONCE):
            told = self.dataset.conditions_of(rows[first : first + AT_ONCE])
            longest = {name: max(most, told.values[name].shape[1]) for name, most in longest.items()}
        return longest

    def record(self) -> dict[str, Any]:
        """As a manifest has them: name and fingerprint of the data, and the rows, with both ends; None for all."""
        rows = None if self.rows is None else ranges(self.rows)
        return {"data": self.dataset.name, "fingerprint": self.dataset.fingerprint, "rows": rows}


def _padded(told: Conditions, longest: Mapping[str, int]) -> Conditions:
    """The same with sequences as long as that."""
    values, masks = dict(told.values), dict(told.masks)
    for name in set(longest) & set(values):
        short = longest[name] - values[name].shape[1]
        values[name] = F.pad(values[name], (0, 0, 0, short))
        masks[name] = F.pad(masks[name], (0, short))
    return Conditions(told.label, masks, **values)


def rows_of(settings: "DrawSettings") -> DataRows | None:
    """The rows that settings name, opened; None where they name none."""
    given = settings.conditions
    return _open(given) if isinstance(given, str) and given != NONE else None if given in (None, NONE) else given


def check_told(spec: "NetworkSpec", settings: "DrawSettings") -> None:
    """Raise `ValueError` if a network is to be measured or looked at and nothing says what it is told."""
    if spec.conditions and settings.conditions is None:
        names = ", ".join(one.name for one in spec.conditions)
        raise ValueError(
            f"the network is told {names}, and what it draws depends on that: give --conditions DATA, such as those of "
            "its training, or that it is measured against, whose rows go to the seeds in turn; or --conditions none to "
            "draw without"
        )


def without_place(record: Mapping[str, Any]) -> dict[str, Any]:
    """`DrawSettings.record` without the path of data that have a fingerprint: they are the same wherever they lie."""
    told = record.get("conditions")
    if not isinstance(told, dict) or not told.get("fingerprint"):
        return dict(record)
    return {**record, "conditions": {name: value for name, value in told.items() if name != "data"}}


@functools.lru_cache(maxsize=4)
def _open(text: str) -> DataRows:
    return DataRows.open(text)


def _split(text: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"(.+)\[([^\[\]]*)\]", text)
    return (text, None) if match is None else (match[1], match[2])


def _numbers(text: str, count: int) -> Sequence[int]:
    """The numbers of rows, from what stands in brackets, as Python reads it: 7, 3,5,7, 0:16, :16 or ::10."""
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        return [int(word) for word in text.split(",")]
    parts = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*(?::\s*(\d*)\s*)?", text)
    if parts is None or parts[3] == "0":
        raise ValueError(f"cannot read the rows [{text}]: write [7], [3,5,7] or [0:16], without the end as in Python")
    start, stop, step = (int(part) if part else None for part in parts.groups())
    if stop is not None and stop > count:
        raise ValueError(f"rows [{text}]: there are {count}, 0 to {count - 1}")
    return range(count)[start:stop:step]
