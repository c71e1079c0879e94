"""Runs of the official training loop, gone on with here: its training state as the checkpoint of a run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unitgain.checkpoint.convert import network_beside
from unitgain.checkpoint.nvidia import on_meta
from unitgain.checkpoint.official import LATENTS, PIXELS, OfficialNetwork
from unitgain.checkpoint.sharded import save_tensors
from unitgain.checkpoint.snapshot import SnapshotHeader, power_profile
from unitgain.checkpoint.state import commit, partial_folder
from unitgain.checkpoint.training import TrainingState, read_training_state
from unitgain.checkpoint.uncertainty import PREFIX, write_with_uncertainty
from unitgain.data.dataset import Dataset
from unitgain.denoiser import make_uncertainty
from unitgain.ema import RAW, length_text
from unitgain.files import require_empty, staged
from unitgain.parallel import World
from unitgain.recipe import Recipe
from unitgain.recipes import create
from unitgain.serial import to_dict
from unitgain.train.config import TrainConfig
from unitgain.train.finetune import recipe_of
from unitgain.train.fitting import check_data, complete
from unitgain.train.ladder import Change
from unitgain.train.run import Window, save_config
from unitgain.train.state import TrainState, state_tensors


@dataclass(frozen=True)
class ImportedRun:
    """What became of a training state.

    Attributes:
        nimg: images seen.
        resumable: whether there is a checkpoint, to resume from.
        raw: the snapshot of the weights themselves, to start from.
        report: what was taken and what was not, a line each.
    """

    nimg: int
    resumable: bool
    raw: Path
    report: tuple[str, ...]


def import_run(
    path: Path,
    out: Path,
    *,
    dataset: Dataset | None = None,
    recipe: Recipe | None = None,
    device: str = "cpu",
    change: Change = lambda config: config,
) -> ImportedRun:
    """Make the folder of a run of a training state of the official loop; all of it, or nothing.

    Args:
        path: the file, `training-state-*.pt`; nothing in it is executed. Constructor arguments and encoder are those of
            the newest official network beside it; without one, what the tensors tell, and defaults.
        out: folder of the run; must be empty. `snapshots/` gets the averages whose length the file says, and the
            weights; with `dataset` there are settings and a checkpoint too, from which `train` goes on.
        dataset: what it was trained on, prepared for this library.
        recipe: batch, learning rate and the like; its network does not count. By default that of the official network
            nearest in width.
        device: kind of device that the run goes on on, "cpu" or "cuda".
        change: made to the settings before they are written, such as batch, learning rate, gradient accumulation and
            seed, which a run that goes on cannot change. Network, averages and what else the file says stay its own.

    Raises:
        FileNotFoundError: if there is no file.
        Refused: if it is no training state, or damaged, or nothing says how many images were seen.
        ValueError: if the data do not fit the network, or a setting is out of its range.
        FileExistsError: if `out` is not empty.
    """
    require_empty(out)
    beside = network_beside(path)
    found = read_training_state(path, beside and beside.config)
    encoder = to_dict(dataset.encoder) if dataset is not None else _encoder(beside, found)
    header = _header(found, "official" if recipe is None else recipe.name, encoder)
    if dataset is not None and header.network.label_dim == dataset.label_dim > 0:
        header = header.replace(classes=dataset.classes, data=dataset.name)
    chosen, remark = (recipe, "") if recipe is not None else recipe_of(header)
    config = change(TrainConfig(recipe=chosen))
    config = replace(config, recipe=_recipe(config.recipe, header, found))
    with staged(out) as partial:
        raw = _write_snapshots(partial / "snapshots", header, found)
        if dataset is not None:
            config = complete(config, dataset, torch.device(device), quiet=True)
            check_data(config, dataset)
            _write_checkpoint(partial, config, found, device)
    report = _report(found, config, [*found.remarks, *([f"recipe: {remark}"] if remark else [])])
    return ImportedRun(found.nimg, dataset is not None, out / "snapshots" / raw.name, tuple(report))


def _encoder(beside: OfficialNetwork | None, found: TrainingState) -> dict[str, Any]:
    if beside is not None:
        return beside.encoder
    return LATENTS if on_meta(found.config)[0].spec.channels == len(LATENTS["mean"]) else PIXELS


def _header(found: TrainingState, recipe: str, encoder: dict[str, Any]) -> SnapshotHeader:
    """What the snapshot of the weights says of itself."""
    denoiser, _ = on_meta(found.config)
    return SnapshotHeader(
        network=denoiser.spec,
        sigma_data=denoiser.sigma_data,
        nimg=found.nimg,
        profile=RAW,
        recipe=recipe,
        encoder=encoder,
        label_dropout=0.0 if denoiser.spec.label_dim else None,
    )


def _recipe(recipe: Recipe, header: SnapshotHeader, found: TrainingState) -> Recipe:
    """A recipe for the network, with what the file says of Adam and of averages."""
    beta1, beta2 = found.options.get("betas", (recipe.beta1, recipe.beta2))
    return recipe.replace(
        network=header.network,
        latents=header.encoder["kind"] == "latents",
        sigma_data=header.sigma_data,
        duration=max(recipe.duration, found.nimg),
        beta1=beta1,
        beta2=beta2,
        eps=found.options.get("eps", recipe.eps),
        ema=tuple(one.sigma_rel for one in found.averages) or recipe.ema,
        ema_half_life=0,
        label_dropout=0.0,
        uncertainty_channels=found.weights[f"{PREFIX}fourier.freqs"].numel(),
    )


def _report(found: TrainingState, config: TrainConfig, remarks: list[str]) -> list[str]:
    """What was taken, and what was not."""
    recipe = config.recipe
    averages = "taken" if found.averages else "none of known length, they begin with the weights as they are"
    lengths = ", ".join(map(length_text, recipe.ema))
    return [
        f"weights and u(sigma): taken, {len(found.weights)} tensors at {found.nimg:,} images",
        f"Adam: {'taken, moments and steps' if found.adam else 'begins with no moments'}; betas {recipe.beta1:g} and "
        f"{recipe.beta2:g}, {'of the file' if 'betas' in found.options else 'of the recipe'}",
        f"averages: {averages}; {lengths}",
        f"recipe: {recipe.name}, batch {recipe.batch} in passes of {config.microbatch or recipe.batch}, learning rate "
        f"{recipe.lr:g}; none of that is in the file, and a resume cannot change it",
        *remarks,
    ]


def _write_snapshots(folder: Path, header: SnapshotHeader, found: TrainingState) -> Path:
    """Write the averages and the weights, whose path is returned, each with u(sigma) beside it."""
    for average in found.averages:
        own = header.replace(profile=power_profile(average.sigma_rel))
        write_with_uncertainty(folder / own.filename(), own, average.tensors)
    raw = folder / header.filename()
    write_with_uncertainty(raw, header, found.weights, "float32")
    return raw


@torch.no_grad()
def _write_checkpoint(run: Path, config: TrainConfig, found: TrainingState, device: str) -> None:
    """Settings and a checkpoint, as `train` writes them."""
    recipe, nimg = config.recipe, found.nimg
    uncertainty = make_uncertainty(recipe.network.design, recipe.uncertainty_channels)
    state = TrainState.around(create(recipe), uncertainty, recipe)
    state.nimg = nimg
    for ema in state.emas:
        ema.t = float(nimg)
    tensors, values = state_tensors(state)
    averages = [one.tensors for one in found.averages] or [found.weights] * len(state.emas)
    for name, weight in found.weights.items():
        own = name if name.startswith(PREFIX) else f"denoiser.{name}"
        tensors[f"model.{own}"].copy_(weight)
        for key, value in found.adam.get(name, {}).items():
            tensors[f"optimizer.{own}.{key}"].copy_(value)
        for index, average in enumerate(averages):
            for kind in ("average", "buffers"):
                if (target := tensors.get(f"ema{index}.{kind}.{name}")) is not None:
                    target.copy_(average[name])
    folder = run / "checkpoints"
    save_tensors(partial_folder(folder, nimg), tensors, World()).result()
    mine = {"window": to_dict(Window()), "config": to_dict(config), "device": device}
    commit(folder, nimg, {**values, **mine, "processes": 1})
    save_config(config, run)
