"""Averaged weights on disk while training, and the weights themselves at the end."""

from typing import Any

import torch
from torch import Tensor

from unitgain.checkpoint.snapshot import SnapshotHeader, power_profile, write_snapshot
from unitgain.ema import ExponentialEMA, PowerEMA
from unitgain.parallel import full
from unitgain.serial import to_dict
from unitgain.train.context import Run
from unitgain.train.errors import together
from unitgain.train.step import Observer, StepReport


class Snapshots(Observer):
    """Writes each average at its interval and at the end.

    Args:
        run: under way.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def report(self, report: StepReport) -> None:
        """Write what is due."""
        run = self.run
        if run.finished or run.due(run.config.recipe.snapshot_every):
            for ema in run.state.emas:
                tensors = {name: self._kept(tensor) for name, tensor in ema.full_tensors()}
                self.write(self.header(profile_entry(ema)), tensors, run.config.snapshot_dtype)
        if run.finished:
            tensors = {name: self._kept(full(tensor)) for name, tensor in run.state.denoiser.state_dict().items()}
            self.write(self.header({"kind": "raw"}), tensors, "float32")

    def header(self, profile: dict[str, Any]) -> SnapshotHeader:
        """What a snapshot taken now says of itself."""
        config, dataset = self.run.config, self.run.dataset
        recipe = config.recipe
        return SnapshotHeader(
            network=recipe.network,
            sigma_data=recipe.sigma_data,
            nimg=self.run.state.nimg,
            profile=profile,
            recipe=recipe.name,
            encoder=to_dict(dataset.encoder),
            classes=dataset.classes if recipe.network.label_dim else None,
            data=dataset.name,
            license=config.init.license if config.init is not None else None,
        )

    def write(self, header: SnapshotHeader, tensors: dict[str, Tensor], dtype: str) -> None:
        """Write one file, on rank 0."""
        path, main = self.run.folder / "snapshots" / header.filename(), self.run.world.main
        together(
            self.run.world,
            f"writing {path}",
            lambda: write_snapshot(path, header, tensors, dtype) if main else None,
        )

    def _kept(self, tensor: Tensor) -> Tensor:
        """A tensor that was gathered on all processes, where it is needed; elsewhere nothing of it."""
        return tensor.cpu() if self.run.world.main else torch.empty(0)


def profile_entry(ema: PowerEMA | ExponentialEMA) -> dict[str, Any]:
    """The `profile` entry of a snapshot of this average."""
    if isinstance(ema, PowerEMA):
        return power_profile(ema.sigma_rel, ema.gamma)
    return {"kind": "exponential", "half_life": ema.half_life}
