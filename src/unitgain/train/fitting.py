"""What settings leave open, from the data, the machine and the run that is resumed; and whether it all fits."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from unitgain.arch import NetworkSpec
from unitgain.console import note
from unitgain.data.dataset import Dataset
from unitgain.data.named import normalized, open_data
from unitgain.infer import fastest_precision
from unitgain.recipe import Precision
from unitgain.size import show_size
from unitgain.train.config import TrainConfig
from unitgain.train.declare import check_there, check_told, declared
from unitgain.train.rules import sized


def fit(network: NetworkSpec, dataset: Dataset, conditions: Sequence[str] | None = None) -> NetworkSpec:
    """A network for other data: their classes, conditions, channels and resolution; attention stays at its levels.

    Args:
        network: what it declares of conditions stays, where the data have them.
        dataset: to be trained on.
        conditions: those of the data, by name, that the network is told; None for all.

    Raises:
        ValueError: if the data have no such condition, or one whose shape says nothing.
    """
    channels, *size = dataset.shape
    fitted = sized(network.replace(conditions=()), resolution=tuple(size)).replace(channels=channels)
    return fitted.replace(label_dim=dataset.label_dim, conditions=declared(dataset, conditions, network.conditions))


def data_of(config: TrainConfig, dataset: Dataset | None = None) -> Dataset:
    """The data of a run as its network is to see them.

    Args:
        config: names the data, and says how they are normalized.
        dataset: the data themselves, where they are at hand.

    Raises:
        ValueError: if there are none of that name, or they cannot be normalized so.
        DataError: if they are damaged.
    """
    if dataset is None:
        return open_data(config.data, config.normalize)
    return normalized(dataset, config.normalize)


def precision_on(device: torch.device, precision: Precision) -> Precision:
    """In which a new run on a device trains what a recipe says is of this precision.

    Float16 is for GPUs: a CPU has it slowly or not at all, and takes bfloat16, or float32 where that is missing too.
    """
    return fastest_precision(device) if precision == "float16" and device.type == "cpu" else precision


def complete(
    config: TrainConfig,
    dataset: Dataset,
    device: torch.device,
    processes: int = 1,
    saved: TrainConfig | None = None,
    quiet: bool = False,
) -> TrainConfig:
    """The settings with everything said, as `config.json` keeps them.

    Args:
        config: leaves open the microbatch, which data these are, and what float16 is on a CPU (`precision_on`).
        dataset: of the run.
        device: where it trains.
        processes: that share each batch.
        saved: of the run that is resumed: what it had is taken first.
        quiet: do not say what was chosen.

    Raises:
        ValueError: if a batch does not divide by the processes, or the data lack a condition that is asked for.
    """
    recipe, microbatch = config.recipe, config.microbatch
    if (best := precision_on(device, recipe.precision)) != recipe.precision:
        recipe = recipe.replace(precision=best if saved is None else saved.recipe.precision)
        if not quiet:
            note(f"float16 is for GPUs: the network is trained in {recipe.precision}")
    if microbatch is None and saved is not None:
        microbatch = saved.microbatch
    elif microbatch is None and processes > 1:
        if recipe.batch % processes:
            raise ValueError(
                f"a batch of {recipe.batch} images does not divide by {processes} processes: give --batch or "
                "--microbatch"
            )
        microbatch = recipe.batch // processes
    told = config.conditions
    if saved is None:
        check_there(dataset, told)
    if told is None and dataset.condition_shapes:
        told = tuple(one.name for one in recipe.network.conditions)
    return replace(
        config,
        recipe=recipe,
        conditions=told,
        microbatch=microbatch,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        classes=dataset.classes if recipe.network.label_dim else None,
    )


def check_data(config: TrainConfig, dataset: Dataset) -> None:
    """Check that the network can be trained on the data.

    Raises:
        ValueError: if the shape of the images, the number of classes or the conditions differ.
    """
    network = config.recipe.network
    expected = (network.channels, *network.size)
    if dataset.shape != expected:
        channels, *size = dataset.shape
        remedy = f"; take that of the data: --resolution {show_size(tuple(size))} --channels {channels}"
        if config.recipe.latents > dataset.latents:
            remedy = "; encode the data first: unitgain data encode"
        raise ValueError(
            f"data {dataset.name}: images are {dataset.shape}, the network takes {expected} (channels, height, width)"
            f"{remedy}"
        )
    if network.label_dim and network.label_dim != dataset.label_dim:
        raise ValueError(
            f"data {dataset.name}: {dataset.label_dim} classes, but the network has label_dim={network.label_dim}; "
            "use that of the data, or label_dim=0 to train without labels (--classes none)"
        )
    check_told(network, dataset, config.conditions)
