"""A training step against the plain one: `python benchmarks/training_step.py`. Figures go to `results/training_step.*`.

Small recipes at 3x32x32, base width 64, at batch 16, and `pixels64-mini`, at batch 8. The plain step gives the same
numbers in float32, contiguous, each function by itself, with weights projected, gradients cleaned, Adam and averages
computed parameter by parameter; `autocast` is the same under torch's autocast to bfloat16. A peer is the step of
another checkout. All take turns in one process.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from arguments import parse
from machine import markdown, write_results
from unitgain.arch.unet import UNet
from unitgain.bench.cases import Case
from unitgain.bench.measure import Pace, Work, measure
from unitgain.bench.memory import PeakMemory
from unitgain.bench.tables import notes
from unitgain.bench.training import rehearse, sized, training_work
from unitgain.layers import MPConv
from unitgain.native.memory import kept_memory
from unitgain.ops import normalize
from unitgain.recipe import Recipe
from unitgain.recipes import PIXELS32, PIXELS64_MINI
from unitgain.serial import to_dict
from unitgain.train.passes import split_passes
from unitgain.train.state import TrainState
from unitgain.train.step import Microbatch
from unitgain.train.warmup import microbatches

WIDTH = 64
BRANCHES = {"EDM2": "s c m s c", "EDM2+": PIXELS32.network.branch}
MINI = "pixels64-mini"
PLAIN = ("plain", "autocast")
MODES = (*PLAIN, "float32", "bfloat16")


def recipes(small: bool) -> dict[str, Recipe]:
    """`pixels32` at another width, with the residual branch of either paper, and `pixels64-mini`; or tiny networks."""
    changes: dict[str, Any] = {"model_channels": WIDTH}
    if small:
        changes = {"model_channels": 8, "channels_per_head": 8, "num_blocks": 1, "channel_mult": (1,)}
    found = {
        label: PIXELS32.replace(name=label, network=PIXELS32.network.replace(branch=branch, **changes), batch=16)
        for label, branch in BRANCHES.items()
    }
    mini = PIXELS64_MINI.network.replace(resolution=8, **changes) if small else PIXELS64_MINI.network
    return {**found, MINI: PIXELS64_MINI.replace(network=mini, batch=8)}


class Peer:
    """Another checkout of the library, in this process beside the one that measures.

    Args:
        folder: of the checkout, with `src` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.source = str(folder / "src")
        if not Path(self.source, "unitgain").is_dir():
            raise ValueError(f"{folder} is no checkout: there is no {self.source}/unitgain")
        self.modules: dict[str, ModuleType] = {}

    @contextmanager
    def instead(self) -> Iterator[None]:
        """While the block runs, `unitgain` is the peer."""
        ours = _library()
        for name in ours:
            del sys.modules[name]
        sys.modules.update(self.modules)
        sys.path.insert(0, self.source)
        try:
            yield
        finally:
            sys.path.remove(self.source)
            self.modules = _library()
            for name in self.modules:
                del sys.modules[name]
            sys.modules.update(ours)

    def work(self, label: str, mode: str, small: bool, batch: int | None) -> Work:
        """The peer's step for the network of this label."""
        with self.instead():
            case = importlib.import_module("unitgain.bench.cases").Case
            recipe = recipe_of(to_dict(recipes(small)[label]))
            train = importlib.import_module("unitgain.bench.training").training_work
            work = train(case(recipe, mode, f"{label} {mode} of the peer"), batch, torch.device("cpu"))
        run = self.within(work.run)
        return Work(name=work.name, run=run, items=work.items, dtype=work.dtype, macs=work.macs, held=work.held)

    def within(self, run: Callable[[], object]) -> Callable[[], None]:
        """The same, with the peer in place while it runs."""

        def inside() -> None:
            with self.instead():
                run()

        return inside


def recipe_of(values: dict[str, Any]) -> Any:
    """A recipe of whichever library is in place, from that of another one as JSON."""
    recipe = importlib.import_module("unitgain.recipe").Recipe
    return importlib.import_module("unitgain.serial").from_dict(recipe, values)


def _library() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "unitgain"}


def plain_work(name: str, recipe: Recipe, batch: int | None, *, autocast: bool = False) -> Work:
    """The plain step on the images that ours is measured on, in float32 or under autocast."""
    device, recipe = torch.device("cpu"), sized(recipe, batch)
    parts = microbatches(recipe, recipe.batch, device)
    torch.manual_seed(0)
    with PeakMemory() as memory:
        step = plain_step(recipe, device, autocast=autocast)
        step(parts)
    return Work(name=name, run=lambda: step(parts), items=recipe.batch, held=memory.kept)


def plain_step(
    recipe: Recipe, device: torch.device, *, autocast: bool = False
) -> Callable[[Sequence[Microbatch]], object]:
    """A step with the same results, written as the papers' formulas read."""
    state = TrainState.start(recipe, device)
    split_passes(state.denoiser)
    cast(UNet, state.denoiser.network).memory_format = torch.contiguous_format
    parameters = [*state.denoiser.parameters(), *state.uncertainty.parameters()]
    betas = (recipe.beta1, recipe.beta2)
    adam = torch.optim.Adam(parameters, lr=recipe.lr, betas=betas, eps=recipe.eps, foreach=False, fused=False)

    def step(microbatches: Sequence[Microbatch]) -> Tensor:
        if recipe.forced_normalization:
            project(state)
        total = torch.zeros((), device=device)
        for microbatch in microbatches:
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = state.objective(microbatch.clean, microbatch.sigma, microbatch.noise, microbatch.label).loss
            (loss.sum() * (recipe.loss_scaling / recipe.batch)).backward()
            total += loss.detach().mean() * (len(microbatch.clean) / recipe.batch)
        for parameter in parameters:
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0, out=parameter.grad)
        for group in adam.param_groups:
            group["lr"] = recipe.learning_rate(state.nimg)
        adam.step()
        adam.zero_grad(set_to_none=True)
        state.nimg += recipe.batch
        average(state, recipe)
        return total

    return step


@torch.no_grad()
def project(state: TrainState) -> None:
    """Eq. 66, layer by layer."""
    for layer in state.modules.modules():
        if isinstance(layer, MPConv):
            layer.weight.copy_(normalize(layer.weight))


@torch.no_grad()
def average(state: TrainState, recipe: Recipe) -> None:
    """The averages of the recipe, parameter by parameter."""
    weights = dict(state.denoiser.named_parameters())
    for ema in state.emas:
        weight = 1 - ema.beta(state.nimg, recipe.batch)
        for name, tensor in ema.average.items():
            tensor.lerp_(weights[name], weight)
        ema.t = float(state.nimg)


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="*", default=MODES, help="plain, autocast, or those of `unitgain bench train`")
    parser.add_argument("--batch", type=int, help="of all networks; 16, and 8 for pixels64-mini, by default")
    parser.add_argument("--networks", nargs="*", default=[*BRANCHES, MINI], choices=[*BRANCHES, MINI])
    parser.add_argument("--peer", type=Path, help="another checkout of this repository, to be measured beside this one")
    parser.add_argument("--seconds", type=float, default=75.0, help="for each network")
    args = parse(parser, arguments)
    if args.small:
        args.batch, args.seconds = 2, 0.01
    device = torch.device("cpu")
    rehearse(device)
    found: dict[str, Any] = {}
    parts = ["# Training step", "", (__doc__ or "").partition("\n\n")[2].strip()]
    peer = Peer(args.peer) if args.peer else None
    for label in args.networks:
        recipe = recipes(args.small)[label]
        print(f"{label} ...", flush=True)
        works = [
            plain_work(f"{label} {mode}", recipe, args.batch, autocast=mode == "autocast")
            if mode in PLAIN
            else training_work(Case(recipe, mode, f"{label} {mode}"), args.batch, device)
            for mode in args.modes
        ]
        if peer:
            works += [peer.work(label, mode, args.small, args.batch) for mode in args.modes if mode not in PLAIN]
        with kept_memory():  # as training does; for all of them, as it is one process
            report = measure(works, pace=Pace(seconds=args.seconds))
        found[label] = to_dict(report)
        parts += ["", f"## {label}, batch {works[0].items}", "", markdown(report), "", " ".join(notes(report))]
    text = "\n".join(parts)
    write_results("training_step", found, text, folder=args.folder)
    print(text)


if __name__ == "__main__":
    main()
