"""States of trackers, as checkpoints have them: what goes where, whatever wraps the module now or did then."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unitgain.ema.described import describe
from unitgain.ema.names import plain_names, without_wrappers

if TYPE_CHECKING:
    from unitgain.ema.tracker import EMA


def state_of(ema: "EMA") -> dict[str, Any]:
    """Everything that `matched` needs; tensors are not copied. Of sharded ones, this process's shards."""
    profile = describe(ema.profile_at(1.0))
    return {"t": ema.t, "profile": profile, "average": dict(ema.average), "buffers": dict(ema.buffers)}


def matched(ema: "EMA", state: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Tensors of a tracker, and those of a state that are to be copied there; nothing is.

    Raises:
        ValueError: if it is no state of a tracker, or of one of another length; if its names or shapes are not those of
            the module.
    """
    if not {"t", "average", "buffers"} <= state.keys():
        raise ValueError("this is no state of an EMA: give what its state_dict() returned")
    profile = describe(ema.profile_at(1.0))
    if not _agree(state.get("profile", profile), profile):  # which states of before do not say
        raise ValueError(f"this EMA state is of {dict(state['profile'])}, and the tracker of {profile}")
    names = plain_names(ema.module)
    pairs: list[tuple[Tensor, Tensor]] = []
    for own, saved in ((ema.average, state["average"]), (ema.buffers, state["buffers"])):
        given = {_own_name(name, own, names): tensor for name, tensor in saved.items()}
        wrong = own.keys() ^ (given.keys() - ema.passing)  # which states of before have
        wrong |= {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape}
        if wrong:
            raise ValueError(
                "this EMA state belongs to another module, or one whose buffers were treated otherwise: "
                f"names or shapes differ in {', '.join(sorted(wrong)[:3])}"
            )
        pairs += [(tensor, given[name]) for name, tensor in own.items()]
    return pairs


def _own_name(name: str, own: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    """What a module calls a tensor that has this name where other wrappers are around it."""
    if name in own:
        return name
    plain = without_wrappers(name)
    return names.get(plain) or names.get(plain.removeprefix("module.")) or name


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of the same profile, but for rounding."""
    if one.keys() != other.keys() or one["kind"] != other["kind"]:
        return False
    return all(math.isclose(one[name], other[name], rel_tol=1e-6) for name in one if name != "kind")
