"""What is measured: a network in a mode, from text such as `edm2-img64-s:bfloat16+compile`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

import torch

from unitgain.arch.unet import UNet
from unitgain.arch.values import placeholder
from unitgain.denoiser import Denoiser, Label
from unitgain.hub import load, names_network
from unitgain.infer import fastest_dtype, prepare
from unitgain.infer.prepare import CompileMode
from unitgain.recipe import Recipe
from unitgain.recipes import RECIPES, create
from unitgain.serial import suggest

AS_TRAINED = ("plain", "exact")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WORDS = (*AS_TRAINED, "fast", *DTYPES)
OPTIONS = ("compile", *(f"compile={how}" for how in get_args(CompileMode)), "direct", "kernels", "graph")
GAIN = (1.0, 0.2)  # mean and deviation of random gains: what the network adds to its input must not be zero


@dataclass(frozen=True)
class Case:
    """A network in a mode.

    Args:
        network: name of a recipe, a recipe, or whatever `unitgain.load` opens.
        mode: as text; which there are depends on what is measured.
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


def parse_case(text: str, words: Sequence[str], default: Sequence[str]) -> list[Case]:
    """Cases from `NETWORK:MODE`, or from `NETWORK` alone.

    Args:
        text: as the user gave it.
        words: that modes begin with; what follows the last colon is a mode, or belongs to the name.
        default: modes of a network without one.

    Raises:
        ValueError: if a recipe's name is followed by something else than a mode.
    """
    network, colon, mode = text.rpartition(":")
    if colon and mode.partition("+")[0] in words:
        return [Case(network, mode)]
    if colon and not Path(text).exists() and network in RECIPES:
        raise ValueError(f"unknown mode {mode!r} in {text!r}: {suggest(mode.partition('+')[0], words)}")
    return [Case(text, each) for each in default]


@dataclass(frozen=True)
class Mode:
    """How a network is run.

    Args:
        word: "plain" (contiguous, weights normalized in every evaluation, as the papers' formulas read), "exact" (as in
            training: the same, channels-last), "fast" (prepared) or a precision (prepared, or trained in).
        dtype: in which the network computes.
        options: that follow, with their values, which are empty for most.
    """

    word: str
    dtype: torch.dtype
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def as_trained(self) -> bool:
        """Whether evaluations are those of training."""
        return self.word in AS_TRAINED

    @property
    def first_is_slow(self) -> bool:
        """Whether the first evaluation compiles, tunes or records."""
        return not {"compile", "kernels", "graph"}.isdisjoint(self.options)

    def apply(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser prepared, or itself made to compute so."""
        if self.as_trained:
            denoiser.dtype = self.dtype
            plain = self.word == "plain"
            cast(UNet, denoiser.network).memory_format = torch.contiguous_format if plain else torch.channels_last
            return denoiser
        return prepare(
            denoiser,
            self.dtype,
            compile=cast(CompileMode, self.options.get("compile")) or "compile" in self.options,
            winograd="direct" not in self.options,
            kernels="kernels" in self.options,
            graph="graph" in self.options,
        )


def parse_mode(
    text: str,
    device: torch.device | str = "cpu",
    words: Sequence[str] = WORDS,
    options: Sequence[str] = OPTIONS,
) -> Mode:
    """A mode from one of the words and options after `+`; `fast` is in the fastest precision of `device`.

    Args:
        text: as the user gave it.
        device: where it will run.
        words: that there are.
        options: of all but plain and exact, which take a precision; N stands for a number.

    Raises:
        ValueError: if it is none of these.
    """
    word, *asked = text.split("+")
    if word not in words:
        raise ValueError(f"cannot read the mode {text!r}: {suggest(word, words)}")
    own = ("bfloat16", "float16") if word in AS_TRAINED else options
    values = {name: value for name, _, value in (option.partition("=") for option in asked)}
    wrong = [option for option in asked if re.sub(r"=[1-9]\d*$", "=N", option) not in own]
    if wrong or len(values) < len(asked) or (word in AS_TRAINED and len(asked) > 1):
        count = "one of " if word in AS_TRAINED else ""
        known = f"{word} takes {count}{', '.join(f'+{option}' for option in own)}, each once"
        refused = f", not +{wrong[0]}" if wrong else ""
        raise ValueError(f"cannot read the mode {text!r}: {known}{refused}")
    if word in AS_TRAINED:
        return Mode(word, DTYPES[asked[0] if asked else "float32"])
    return Mode(word, fastest_dtype(device) if word == "fast" else DTYPES[word], values)


def open_denoiser(network: str | Recipe, device: torch.device | str = "cpu", mapped: bool = False) -> Denoiser:
    """The network of a case, in float32: as trained if it is a snapshot, else with random weights and random gains.

    A network as it is initialized adds nothing to its input, so there would be no error to see. With `mapped` the
    weights of a snapshot stay in its file, as commands that draw open what they prepare.

    Raises:
        ValueError: if it is no recipe, no file and no name of a network.
    """
    if isinstance(network, str) and network not in RECIPES:
        if not (Path(network).exists() or names_network(network)):
            raise ValueError(f"{network!r} is no recipe, no snapshot and no network; {suggest(network, RECIPES)}")
        return load(network, mapped=mapped).to(device).eval().requires_grad_(False)
    torch.manual_seed(0)
    denoiser = create(network).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        if not parameter.ndim:
            parameter.normal_(*GAIN)
        elif not parameter.any():  # last convolutions of ADM blocks start at zero
            parameter.normal_(0, 1 / max(parameter[0].numel(), 1) ** 0.5)
    return denoiser.to(device)


def inputs(
    denoiser: Denoiser, batch: int, device: torch.device | str, sigma: float = 0.7
) -> tuple[torch.Tensor, torch.Tensor, Label]:
    """Noisy images, noise levels and classes for an evaluation, the same at each call."""
    spec = denoiser.spec
    generator = torch.Generator().manual_seed(1)
    deviation = (denoiser.sigma_data**2 + sigma**2) ** 0.5
    x = torch.randn(batch, spec.channels, *spec.size, generator=generator) * deviation
    label = torch.arange(batch, device=device) % spec.label_dim if spec.label_dim else None
    return x.to(device), torch.full((batch,), sigma, device=device), placeholder(spec, label, batch, device)
