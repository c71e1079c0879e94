"""`unitgain bench`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from unitgain.cli.arguments import Unset, pick_device
from unitgain.cli.drawing import Sampled
from unitgain.cli.measuring import Comparing
from unitgain.recipes import RECIPES
from unitgain.sample.samplers import Heun, Sampler

NetworkName = Annotated[Unset[str], tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")]


@dataclass(frozen=True)
class Forward(Comparing):
    """Evaluations of a denoiser.

    Modes: plain (float32, contiguous, weights normalized in every evaluation), exact (the same, channels-last: what
    --exact runs elsewhere), fast (prepared, in the fastest precision here), float32, bfloat16, float16 (prepared).
    plain and exact take +bfloat16 or +float16; the prepared ones +compile or +compile=max-autotune, +direct (without
    Winograd's filtering), +kernels (Triton's) and +graph (CUDA graphs, without +compile).
    """

    network: NetworkName = None
    """A recipe, whose weights are random then, or a snapshot, a preset or a repository of the Hugging Face Hub; with
    :MODE for one mode alone. Default modes: plain and fast."""

    batch: int = 1
    """Images of an evaluation."""

    tf32: bool = False
    """Let GPUs round float32 to TF32, as in EDM2+'s Table 4; torch by itself does so in convolutions alone."""

    def run(self) -> None:
        """Measure and print."""
        from unitgain.bench.cases import WORDS
        from unitgain.bench.forward import forward

        cases = self.cases(self.network, WORDS, ("plain", "fast"))
        with self.measuring() as pace:
            comparison = forward(cases, batch=self.batch, tf32=self.tf32, device=pick_device(self.device), pace=pace)
        self.show(comparison, "measure whole samples", "bench", "sample", cases[0].network)


@dataclass(frozen=True)
class Train(Comparing):
    """Training steps on random images.

    Modes: float32, bfloat16, float16, each with +microbatch=N, +recompute, +compile, +kernels (Triton's) and
    +normalize-each (weights anew for each microbatch rather than once a step), which are options of `unitgain train`.
    """

    network: NetworkName = None
    """A recipe; with :MODE for one mode alone. Default modes: float32, on a GPU bfloat16 too."""

    batch: Unset[int] = None
    """Images of a step. Default: those of the recipe, at most 16."""

    def run(self) -> None:
        """Measure and print."""
        from unitgain.bench.training import WORDS, training

        device = pick_device(self.device)
        cases = self.cases(self.network, WORDS, ("float32", "bfloat16") if device.type == "cuda" else ("float32",))
        with self.measuring() as pace:
            comparison = training(cases, batch=self.batch, device=device, pace=pace)
        about = ("inspect", cases[0].network, "--microbatch", 8)
        self.show(comparison, "see how much memory training takes, and for what", *about)


@dataclass(frozen=True)
class Sample(Comparing, Sampled):
    """Whole samples. Modes as in `bench forward`."""

    network: NetworkName = None
    """As in `bench forward`. Default mode: fast."""

    batch: Unset[int] = None
    """Images, drawn together. Default: as many as the first network evaluates at a time."""

    steps: int = 32
    """Steps of the sampler."""

    method: Sampler = field(default_factory=Heun)

    guidance: float = 1.0
    """Weight of guidance; 1 for none."""

    guide: Unset[str] = None
    """Network that guides, in the same mode. Default: the network without its label."""

    @classmethod
    def with_sampler(cls, sampler: Sampler) -> dict[str, Any]:
        """As `Sampled` says."""
        return {"method": sampler}

    def run(self) -> None:
        """Measure and print."""
        from unitgain.bench.cases import WORDS
        from unitgain.bench.sampling import sampling

        if self.guide is not None and self.guidance == 1:
            raise ValueError(f"--guide {self.guide} without --guidance: say how much, as in --guidance 1.5")
        cases = self.cases(self.network, WORDS, ("fast",))
        with self.measuring() as pace:
            comparison = sampling(
                cases,
                batch=self.batch,
                steps=self.steps,
                sampler=self.method,
                guide=self.guide,
                guidance=self.guidance,
                device=pick_device(self.device),
                pace=pace,
            )
        if (name := str(cases[0].network)) in RECIPES or Path(name).exists():
            self.show(comparison, "see what it costs", "inspect", name)
        else:
            self.show(comparison, "draw images", "sample", name, "--out", f"samples-{Path(name).name}", "--grid")
