"""Fine-tuning: a run that starts from the weights of a snapshot, whatever of them fits its data.

Blocks are matched by level, not by resolution: the finest level of the snapshot starts the finest level of the network.
Time starts anew. A power-function average weighs weights by tau^gamma from the start of the run (EDM2, Eq. 119), so its
first update takes nothing of what was before (beta is 0 in Eq. 127), and the profile that snapshots state is that of
this run alone. Until then each average is the snapshot itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unitgain.arch import NetworkSpec
from unitgain.arch.conditions import Image
from unitgain.checkpoint.snapshot import Snapshot, SnapshotHeader
from unitgain.checkpoint.state import list_checkpoints
from unitgain.checkpoint.uncertainty import read_uncertainty
from unitgain.data.dataset import Dataset
from unitgain.denoiser import Denoiser
from unitgain.hub import locate
from unitgain.layers import MPConv
from unitgain.loss import RecordedLoss
from unitgain.ops import normalize
from unitgain.parallel import World
from unitgain.recipe import Recipe
from unitgain.recipes import RECIPES
from unitgain.serial import differences, to_dict
from unitgain.train.config import Init, TrainConfig
from unitgain.train.errors import TrainingError
from unitgain.train.run import load_config

# What may differ between a snapshot and the network that starts from it.
ADAPTED = ("resolution", "channels", "label_dim", "attn_resolutions", "dropout", "conditions")
LABEL = "network.embedding.label.weight"


@dataclass
class Inheritance:
    """What a network takes from a snapshot.

    Args:
        init: which snapshot.
        header: what it says of itself.
        tensors: of it, float32; let go when they are used.
        classes: names of the classes of the run's data, if it has labels.
        uncertainty: state of the u(sigma) that belongs to it, if it is beside it.

    Attributes:
        kept: names of tensors that were taken over as they are.
        numbers: how many numbers these hold.
        changes: what was not, in words, by name of the tensor or of what it is about.
    """

    init: Init
    header: SnapshotHeader
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None = None
    uncertainty: dict[str, Tensor] | None = None
    kept: list[str] = field(default_factory=list)
    numbers: int = 0
    changes: dict[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def into(self, denoiser: Denoiser, uncertainty: nn.Module | None = None) -> None:
        """Give a new network, and its u(sigma), what fits it; notes what did not."""
        old, own = self.header.network, denoiser.state_dict()
        left, self.tensors = self.tensors, {}
        for name, tensor in own.items():
            old_name = at_level(name, denoiser.spec, old)
            source = left.pop(old_name, None)
            if name == LABEL and source is not None:
                self._into_labels(denoiser, tensor, source)
            elif name == _input(denoiser.spec) and source is not None and source.shape != tensor.shape:
                self._into_input(denoiser.spec, name, tensor, source)
            elif source is not None and source.shape == tensor.shape:
                self._keep(name, tensor, source)
            else:
                was = "not in the snapshot" if source is None else f"{_size(source)} in the snapshot"
                self.changes[name] = f"new, {_size(tensor)}: {was}"
        self.changes |= {name: f"left out, {_size(tensor)}" for name, tensor in left.items()}
        own_u = {} if uncertainty is None else uncertainty.state_dict()
        if uncertainty is not None and self.uncertainty is not None and _same_shapes(own_u, self.uncertainty):
            uncertainty.load_state_dict(self.uncertainty)
            self.changes["u(sigma)"] = "that beside the snapshot"
        else:
            self.changes["u(sigma)"] = "new: snapshots do not hold it, and none that fits is beside this one"
        self.changes["averages"] = "start from the snapshot, with time 0: they know this run alone"

    def report(self) -> list[str]:
        """What was done, a line each."""
        about = f"{self.init.name} ({self.header.recipe}, {self.header.nimg:,} images)"
        first = f"starting from {about}: {len(self.kept)} tensors taken over as they are, {self.numbers:,} numbers"
        return [first, *(f"  {name}: {change}" for name, change in self.changes.items())]

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"snapshot": self.init.name, "sha256": self.init.sha256, "kept": len(self.kept), "changes": self.changes}

    def _keep(self, name: str, tensor: Tensor, source: Tensor) -> None:
        tensor.copy_(source)
        self.kept.append(name)
        self.numbers += tensor.numel()

    def _into_labels(self, denoiser: Denoiser, tensor: Tensor, source: Tensor) -> None:
        """Classes of the same name keep their vector, a column; without names all are kept, or none."""
        known, ours = self.header.classes, self.classes
        if known == ours or known is None or ours is None:
            if source.shape == tensor.shape:
                self._keep(LABEL, tensor, source)
                if known != ours:
                    self.changes["classes"] = f"{tensor.shape[1]} by their number: not all names are known"
            else:
                was = f"{source.shape[1]} in the snapshot, and not all names are known"
                self.changes[LABEL] = f"new, {_size(tensor)}: {tensor.shape[1]} classes, {was}"
            return
        layer = denoiser.network.get_submodule("embedding.label")
        # An average is shorter than the weights it is of. New columns have unit magnitude; so must the others.
        columns = normalize(source) if isinstance(layer, MPConv) else source
        place = {name: number for number, name in enumerate(known)}
        same = [name for name in ours if name in place]
        for number, name in enumerate(ours):
            if name in place:
                tensor[:, number] = columns[:, place[name]]
        names = f" ({', '.join(same[:8])}{', ...' if len(same) > 8 else ''})" if same else ""
        self.changes[LABEL] = (
            f"{len(same)} of {len(ours)} classes have names of the snapshot{names} and keep their vector, the others "
            "are new"
        )

    def _into_input(self, spec: NetworkSpec, name: str, tensor: Tensor, source: Tensor) -> None:
        """What the first convolution sees of images and conditions that both know stays; what is new begins at 0.

        The network so begins as that of the snapshot: a row is scaled to unit magnitude as a whole.
        """
        old, new = _columns(self.header.network), _columns(spec)
        same = [part for part in new if part in old and len(old[part]) == len(new[part])]
        fits = tensor.shape[0] == source.shape[0] and tensor.shape[2:] == source.shape[2:]
        if "x" not in same or not fits:
            self.changes[name] = f"new, {_size(tensor)}: {_size(source)} in the snapshot"
            return
        tensor.zero_()
        for part in same:
            tensor[:, new[part]] = source[:, old[part]]
        added = [part for part in new if part not in same]
        self.changes[name] = f"kept for {', '.join(same)}; 0 for what is new: {', '.join(added) or 'nothing'}"


def _input(spec: NetworkSpec) -> str:
    """Name of the weight of the first convolution."""
    return f"network.enc.{spec.level_names[0]}_conv.weight"


def _columns(spec: NetworkSpec) -> dict[str, list[int]]:
    """Input channels of the first convolution: those of the image, with the one of ones, and those of conditions."""
    columns, end = {"x": list(range(spec.channels + 1))}, spec.channels + 1
    for one in spec.conditions:
        if isinstance(one, Image):
            columns[one.name] = list(range(end, end + one.channels + 1))
            end += one.channels + 1
    return columns


def open_init(name: str) -> tuple[Init, SnapshotHeader]:
    """A snapshot by name, as `unitgain.load` takes it; its weights are not read.

    Raises:
        FileNotFoundError: if there is none.
        SnapshotError: if it is damaged, or none, such as a pickle, which has to be converted first.
        HubError: if the repository cannot be reached.
    """
    with Snapshot(locate(name)) as snapshot:
        return Init(name=name, sha256=snapshot.sha256, license=snapshot.header.license), snapshot.header


def recipe_of(header: SnapshotHeader, init: str | None = None) -> tuple[Recipe, str]:
    """The recipe of a snapshot, and a line to show where it had to be chosen.

    One of a recipe of one's own is trained on by the settings of the run that it lies in. Where there are none, as for
    a network of EDM2 from elsewhere, that of the published network of its kind (architecture; latents or pixels)
    that is nearest in width stands in, under the name that the snapshot has.

    Args:
        header: what the snapshot says of itself.
        init: its name, as for `open_init`.

    Raises:
        ValueError: if none is of its kind.
    """
    if header.recipe in RECIPES:
        return RECIPES[header.recipe], ""
    own = None if init is None else _recipe_of_run(locate(init).parent.parent, header)
    if own is not None:
        return own, f"the recipe {header.recipe!r} of the snapshot is that of its run"
    latents = header.encoder.get("kind") == "latents"
    near = min(
        (one for one in RECIPES.values() if _same_kind(one, header.network, latents)),
        key=lambda one: abs(one.network.model_channels - header.network.model_channels),
        default=None,
    )
    if near is None:
        raise ValueError(f"the snapshot names the recipe {header.recipe!r}, which is not known here: name one")
    text = (
        f"the recipe {header.recipe!r} of the snapshot is not known here: {near.name} stands in, the nearest in width; "
        "name a recipe to choose another"
    )
    return near.replace(name=header.recipe, summary="", scores=()), text


def _same_kind(known: Recipe, network: NetworkSpec, latents: bool) -> bool:
    """Whether a recipe is that of a published network of some size that is built of the same blocks."""
    own = known.network
    return (
        (own.design, own.branch, known.latents) == (network.design, network.branch, latents)
        and known.name.startswith("edm2")
        and "-config-" not in known.name
        and not known.name.endswith("-uncond")
    )


def _recipe_of_run(run: Path, header: SnapshotHeader) -> Recipe | None:
    """The recipe that the run says it is trained by, if the snapshot can be of it."""
    try:
        own = load_config(run).recipe
    except (OSError, ValueError, TrainingError):
        return None
    fits = own.name == header.recipe and own.network == header.network and own.sigma_data == header.sigma_data
    return own if fits and not isinstance(own.loss, RecordedLoss) else None


def check_fit(header: SnapshotHeader, config: TrainConfig, dataset: Dataset) -> dict[str, str]:
    """Check that a run can start from a snapshot; what to know of it otherwise, by what it is about.

    Raises:
        ValueError: if the networks are built otherwise, or see the data otherwise.
    """
    recipe, old = config.recipe, header.network
    rows = [row for row in differences(to_dict(old), to_dict(recipe.network)) if row.partition(":")[0] not in ADAPTED]
    if rows:
        raise ValueError(
            f"the network of recipe {recipe.name} is not built as that of the snapshot (snapshot -> recipe): "
            f"{'; '.join(rows)}. Leave the recipe out to train the snapshot's own network, or name one that fits: it "
            f"may differ in {', '.join(ADAPTED)}"
        )
    if recipe.sigma_data != header.sigma_data:
        raise ValueError(
            f"the snapshot was trained with sigma_data {header.sigma_data:g}, the run would have "
            f"{recipe.sigma_data:g}: give --sigma-data {header.sigma_data:g} and data of that standard deviation"
        )
    ours, theirs = to_dict(dataset.encoder), header.encoder
    if ours.get("kind") != theirs.get("kind"):
        raise ValueError(
            f"the snapshot sees {theirs.get('kind')}, the data are {ours.get('kind')}: "
            + ("encode them first: unitgain data encode" if theirs.get("kind") == "latents" else "give pixels")
        )
    other = differences(theirs, ours)
    return {"encoder": f"WARNING: another one than the snapshot's: {'; '.join(other)}"} if other else {}


def open_inheritance(
    config: TrainConfig, dataset: Dataset, run: Path, resume: bool, world: World
) -> Inheritance | None:
    """What a run begins with, read on all processes; None where weights are random or those of a checkpoint.

    Raises:
        ValueError: as `check_fit`, or if the snapshot is not the one that the settings name.
    """
    init = config.init
    if init is None or world.broadcast(resume and bool(list_checkpoints(run / "checkpoints"))):
        return None

    def read() -> Inheritance:
        path = locate(init.name)
        with Snapshot(path) as snapshot:
            if snapshot.sha256 != init.sha256:
                raise ValueError(f"{init.name} is another snapshot than the one that the run is to start from")
            changes = check_fit(snapshot.header, config, dataset)
            tensors = {name: tensor.float() for name, tensor in snapshot.verified()}
            classes = dataset.classes if config.recipe.network.label_dim else None
            beside = read_uncertainty(path)
            return Inheritance(init, snapshot.header, tensors, classes, uncertainty=beside, changes=changes)

    return world.together(f"reading {init.name}", read)


def at_level(name: str, new: NetworkSpec, old: NetworkSpec) -> str:
    """The name in the network `old` of what is called `name` in `new`: the same block of the same level."""

    def renamed(match: re.Match[str]) -> str:
        return f"{match[1]}{old.level_names[new.level_names.index(match[2])]}_"

    return re.sub(r"(\b(?:enc|dec)\.)([0-9x]+)_", renamed, name)


def _same_shapes(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    shapes, others = ({name: tensor.shape for name, tensor in state.items()} for state in (one, other))
    return shapes == others


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "1 number"
