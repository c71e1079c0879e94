"""What is compared: a network in a mode, from text such as `edm2-img64-s:bfloat16+compile`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from unitgain.arch.unet import UNet
from unitgain.denoiser import Denoiser
from unitgain.hub import load, names_network
from unitgain.infer import Prepared, fastest_dtype, prepare
from unitgain.infer.prepare import CompileMode
from unitgain.recipe import Recipe
from unitgain.recipes import RECIPES, create
from unitgain.serial import suggest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GAIN = (1.0, 0.2)  # mean and deviation of random gains: what the network adds to its input must not be zero
Kind = Literal["plain", "exact", "prepared"]


@dataclass(frozen=True)
class Case:
    """A network in a mode.

    Args:
        network: name of a recipe, a recipe, or whatever `unitgain.load` opens.
        mode: as text; what there is depends on what is measured.
        label: in tables; by default `network:mode`.
    """

    network: str | Recipe
    mode: str
    label: str = ""

    @property
    def name(self) -> str:
        """In tables."""
        network = self.network if isinstance(self.network, str) else self.network.name
        return self.label or f"{network}:{self.mode}"

    @property
    def recipe(self) -> Recipe:
        """The recipe.

        Raises:
            ValueError: if it is no recipe's name.
        """
        if isinstance(self.network, Recipe):
            return self.network
        if self.network not in RECIPES:
            raise ValueError(f"{self.network!r} is no recipe; {suggest(self.network, RECIPES)}")
        return RECIPES[self.network]


def parse_case(text: str, known: Sequence[str], default: str | None = None) -> list[Case]:
    """Cases from `NETWORK:MODE`, or from `NETWORK` alone.

    Args:
        text: as the user gave it.
        known: first words of modes; what follows the last colon is one of them, or belongs to the name.
        default: modes, separated by commas, of a network without one; None if it has to have one.

    Raises:
        ValueError: if there is no mode and no default.
    """
    network, colon, mode = text.rpartition(":")
    if colon and mode.partition("+")[0] in known:
        return [Case(network, mode)]
    if colon and not Path(text).exists() and network in RECIPES:
        raise ValueError(f"unknown mode {mode!r} in {text!r}: {suggest(mode.partition('+')[0], known)}")
    if default is None:
        raise ValueError(f"{text!r} names no mode: write {text}:{known[0]}")
    return [Case(text, one) for one in default.split(",")]


@dataclass(frozen=True)
class Mode:
    """How a network is evaluated.

    Args:
        kind: "plain" (contiguous, weights normalized in every evaluation, as the papers' formulas read), "exact" (as in
            training: the same, channels-last) or "prepared" (`unitgain.infer.prepare`).
        dtype: in which the network computes.
        compile: as `prepare` takes it.
        winograd: likewise.
        kernels: likewise.
        graph: likewise.
    """

    kind: Kind
    dtype: torch.dtype
    compile: bool | CompileMode = False
    winograd: bool = True
    kernels: bool = False
    graph: bool = False

    @property
    def first_is_slow(self) -> bool:
        """Whether the first evaluation compiles, tunes or records."""
        return bool(self.compile) or self.kernels or self.graph

    def prepare(self, denoiser: Denoiser) -> Prepared:
        """The denoiser prepared so."""
        return prepare(
            denoiser,
            self.dtype,
            compile=self.compile,
            winograd=self.winograd,
            kernels=self.kernels,
            graph=self.graph,
        )


MODES = ("plain", "exact", "fast", *DTYPES)
GRAMMAR = (
    "plain, exact, fast, float32, bfloat16 or float16; plain and exact take +bfloat16 or +float16, the others +compile "
    "or +compile=max-autotune, +direct, +kernels and +graph"
)


def parse_mode(text: str, device: torch.device | str = "cpu") -> Mode:
    """A mode of inference: `plain`, `exact`, `fast`, `float32`, `bfloat16`, `float16`, and options after `+`.

    `fast` is prepared in the fastest precision of `device`, the last three are prepared in that precision.

    Raises:
        ValueError: if it is none of these.
    """
    first, *options = text.split("+")
    if first in ("plain", "exact"):
        if len(options) > 1 or any(option not in DTYPES for option in options):
            raise ValueError(f"cannot read the mode {text!r}: write {GRAMMAR}")
        return Mode(first, DTYPES[options[0]] if options else torch.float32)
    found: dict[str, str] = {}
    for option in options:
        word, _, value = option.partition("=")
        known = not value or (word == "compile" and value in get_args(CompileMode))
        if word not in ("compile", "direct", "kernels", "graph") or word in found or not known:
            raise ValueError(f"cannot read the mode {text!r}: write {GRAMMAR}")
        found[word] = value
    if first not in MODES:
        raise ValueError(f"cannot read the mode {text!r}: write {GRAMMAR}")
    dtype = fastest_dtype(device) if first == "fast" else DTYPES[first]
    compile = (found["compile"] or True) if "compile" in found else False
    how = {"winograd": "direct" not in found, "kernels": "kernels" in found, "graph": "graph" in found}
    return Mode("prepared", dtype, compile, **how)  # type: ignore[arg-type]


def check_network(network: str | Recipe) -> None:
    """Raise `ValueError` unless there is such a network."""
    if not isinstance(network, str) or network in RECIPES or Path(network).exists():
        return
    if not names_network(network):
        raise ValueError(f"{network!r} is no recipe, no snapshot and no network; {suggest(network, RECIPES)}")


def open_denoiser(network: str | Recipe, device: torch.device | str = "cpu", mapped: bool = False) -> Denoiser:
    """The network of a case, in float32: as trained if it is a snapshot, else with random weights and random gains.

    A network as it is initialized adds nothing to its input, so there would be no error to see. With `mapped` the
    weights of a snapshot stay in its file, as commands that draw open what they prepare.

    Raises:
        ValueError: if it is no recipe, no file and no name of a network.
    """
    check_network(network)
    if isinstance(network, str) and network not in RECIPES:
        return load(network, mapped=mapped).to(device).eval().requires_grad_(False)
    torch.manual_seed(0)
    denoiser = create(network).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if not parameter.ndim:
            parameter.normal_(*GAIN)
        elif not parameter.any():  # last convolutions of ADM blocks start at zero
            parameter.normal_(0, 1 / max(parameter[0].numel(), 1) ** 0.5)
    return denoiser.to(device)


def lay_out(denoiser: Denoiser, dtype: torch.dtype, plain: bool) -> None:
    """Have a denoiser as it was trained compute in `dtype`, contiguous if `plain`, else channels-last."""
    denoiser.dtype = dtype
    cast(UNet, denoiser.network).memory_format = torch.contiguous_format if plain else torch.channels_last


def inputs(
    denoiser: Denoiser, batch: int, device: torch.device | str, sigma: float = 0.7
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Noisy images, noise levels and classes for an evaluation, the same at each call."""
    spec = denoiser.spec
    generator = torch.Generator().manual_seed(1)
    deviation = (denoiser.sigma_data**2 + sigma**2) ** 0.5
    x = torch.randn(batch, spec.channels, spec.resolution, spec.resolution, generator=generator) * deviation
    label = torch.arange(batch, device=device) % spec.label_dim if spec.label_dim else None
    return x.to(device), torch.full((batch,), sigma, device=device), label
