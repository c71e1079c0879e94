"""Averaging profiles as files have them: JSON values, and the lengths that are in names of files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from unitgain.ema.profiles import (
    DensityProfile,
    ExponentialProfile,
    PowerProfile,
    Profile,
    UniformProfile,
    sigma_rel_to_gamma,
)

RAW: dict[str, Any] = {"kind": "raw"}
# What a description says of each kind of average.
KEYS = {"power": ("sigma_rel", "gamma"), "exponential": ("half_life",), "uniform": ("start",)} | {
    "raw": (),
    "unknown": (),  # an average from elsewhere that does not say how long it is
}


def describe(profile: Profile | None) -> dict[str, Any]:
    """A profile as a file has it, which has its time apart; None is no average at all.

    Raises:
        ValueError: if it is a density of one's own, which no file can hold.
    """
    match profile:
        case None:
            return RAW
        case PowerProfile():
            return {"kind": "power", "sigma_rel": float(f"{profile.sigma_rel:.9g}"), "gamma": profile.gamma}
        case ExponentialProfile():
            return {"kind": "exponential", "half_life": profile.half_life}
        case UniformProfile():
            return {"kind": "uniform", "start": profile.start}
        case DensityProfile():
            raise ValueError("a density of one's own cannot be written to a file: store power or exponential averages")


def power_profile(sigma_rel: float, gamma: float | None = None) -> dict[str, Any]:
    """The description of a power-function average of this relative length."""
    return {"kind": "power", "sigma_rel": sigma_rel, "gamma": sigma_rel_to_gamma(sigma_rel) if gamma is None else gamma}


def check_description(described: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless a description is one: a kind, and the numbers that belong to it."""
    kind = described.get("kind")
    if (
        not isinstance(kind, str)
        or kind not in KEYS
        or not all(type(described.get(key)) in (int, float) for key in KEYS[kind])
    ):
        kinds = "; ".join(f"{name} with {', '.join(keys) or 'nothing more'}" for name, keys in KEYS.items())
        raise ValueError(f"a snapshot's profile must be one of {kinds}; not {dict(described)!r}")


def profile_of(described: Mapping[str, Any], t: float) -> Profile | None:
    """Inverse of `describe`, for an average that ends at `t`.

    Raises:
        ValueError: if it describes no profile, or one that cannot end there.
    """
    check_description(described)
    match described["kind"]:
        case "power":
            return PowerProfile(t, described["gamma"])
        case "exponential":
            return ExponentialProfile(t, described["half_life"])
        case "uniform":
            return UniformProfile(described["start"], t)
        case _:
            return None


def file_name(t: float, described: Mapping[str, Any], mixed: str = "") -> str:
    """`<t, 10 digits>-<length>.safetensors`, where a time that is no whole number has decimals.

    Args:
        t: when the average was taken.
        described: its profile; the length is sigma_rel as `length_text` writes it, `hl` and the half-life, or the kind.
        mixed: after the length, where tensors have other lengths too.
    """
    match described["kind"]:
        case "power":
            length = length_text(described["sigma_rel"])
        case "exponential":
            length = f"hl{described['half_life']:g}"
        case kind:
            length = str(kind)
    return f"{time_text(t)}-{length}{mixed}.safetensors"


def length_text(sigma_rel: float) -> str:
    """A relative length as names of files have it: in three decimals, or in as many as it has, up to nine."""
    return max(f"{sigma_rel:.3f}", f"{sigma_rel:.9f}".rstrip("0"), key=len)


def time_text(t: float) -> str:
    """A time in the name of a file: 10 digits, and three decimals if it is no whole number."""
    return f"{t:010.0f}" if float(t).is_integer() else f"{t:014.3f}"


def check_names(names: Sequence[str]) -> None:
    """Raise `ValueError` if two averages would be in files of one name, of which the second would replace the first."""
    name, count = max(Counter(names).items(), key=itemgetter(1), default=("", 0))
    if count > 1:
        raise ValueError(
            f"two averages would be in files of one name, {name}, which has a time in thousandths, sigma_rel in nine "
            "decimals and a half-life in six digits: choose lengths or times that differ by more"
        )
