"""`unitgain train`."""

import dataclasses
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from unitgain.cli.arguments import Device, Unset, parse_duration, pick_device
from unitgain.cli.evaluation import EvaluationOptions
from unitgain.console import note, say
from unitgain.recipes import Recipe, recipe
from unitgain.train.config import Normalize, OnCheckpointError, Precision

if TYPE_CHECKING:
    from unitgain.checkpoint.snapshot import SnapshotHeader
    from unitgain.data.loader import Dataset
    from unitgain.train import Init, TrainConfig

DIGITS = "digits"


@dataclass(frozen=True)
class Train:
    """Train a network by a recipe.

    The run folder gets config.json, stats.jsonl, snapshots/ (averaged weights), checkpoints/ and tensorboard/.
    Ctrl-C, SIGTERM or SIGUSR1 finish the step, write a checkpoint and print the command that resumes; the resumed run
    ends with the same weights as one that was not stopped. A second signal aborts at once.

    Under torchrun (torchrun --nproc-per-node 8 -m unitgain train ...) all processes train together.
    """

    recipe: Annotated[Unset[str], tyro.conf.Positional] = None
    """Name of the recipe, such as digits. May be left out with --resume, and with --init: then it is that of the
    snapshot, and the network too, for the classes, channels and resolution of the data."""

    out: Unset[Path] = None
    """Folder of the run; must be empty, unless --resume. Default: runs/RECIPE."""

    init: Unset[str] = None
    """Start from the weights of this snapshot: a path, a preset that was fetched, or a repository of the Hugging Face
    Hub. What does not fit is new, and said."""

    resume: bool = False
    """Go on from the newest valid checkpoint in the folder, with the settings the run was started with."""

    data: Unset[str] = None
    """Folder that `unitgain data prepare` or `encode` made. Default: digits."""

    classes: Literal["recipe", "data", "none"] = "recipe"
    """Number of classes of the network: the recipe's, that of the data, or none, to train without labels."""

    normalize: Unset[Normalize] = None
    """How pixels become what the network sees: official maps them to [-1, 1], measured gives the data mean 0 and
    standard deviation 0.5. Default: official."""

    flip: bool = False
    """Mirror each image or not, by a coin of its own."""

    workers: Unset[int] = None
    """Threads that read data ahead. Default: one for latents; for pixels one per core, at most 8."""

    cache: bool = False
    """Keep decoded data in memory."""

    sigma_data: Unset[float] = None
    """Standard deviation of the data. Default: the recipe's; `unitgain data check` says what suits them."""

    P_mean: Unset[float] = None
    """Mean of ln(sigma) in training. Default: the recipe's."""

    P_std: Unset[float] = None
    """Standard deviation of ln(sigma) in training. Default: the recipe's."""

    seed: Unset[int] = None
    """Seed of everything random. Default: 0."""

    duration: Unset[int] = None
    """Images to train for; rounded up to whole batches. Default: the recipe's. May be raised with --resume."""

    batch: Unset[int] = None
    """Images per step. Default: the recipe's."""

    microbatch: Unset[int] = None
    """Images per forward pass, to save memory; must divide the batch. It is part of what a run is, the number of
    processes is not. Default: the batch divided by the number of processes."""

    lr: Unset[float] = None
    """Reference learning rate. Default: the recipe's."""

    dtype: Unset[Precision] = None
    """Precision of the network; parameters and embedding stay in float32. Default: float32."""

    snapshot_dtype: Unset[Precision] = None
    """Precision of stored averages. Default: float16."""

    snapshot_budget: Unset[float] = None
    """GB that stored averages may take; old ones are given up such that averages of other lengths suffer least.
    Default: all are kept."""

    snapshot_every: Unset[int] = None
    """Images between snapshots; rounded up to whole batches. Default: the recipe's."""

    checkpoint_every: Unset[int] = None
    """Images between checkpoints; rounded up to whole batches. Default: the recipe's snapshot interval."""

    keep_checkpoints: Unset[int] = None
    """How many of the newest checkpoints are kept. Default: 2."""

    keep_every: Unset[int] = None
    """Images; the first checkpoint at or after each multiple is kept too, beside the newest. Default: none."""

    tick: Unset[int] = None
    """Images between lines of statistics; rounded up to whole batches. Default: a quarter of the snapshot interval."""

    magnitudes_every: Unset[int] = None
    """Images between measurements of the magnitudes of activations and weights; 0 for none. Default: none."""

    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    device: Device = "auto"
    """Where to train."""

    shard: bool = False
    """With several processes: cut parameters, gradients, optimizer and averages up among them (FSDP2), for networks
    that are too large for one device. Otherwise each holds all of it (DDP), which is faster."""

    recompute: bool = False
    """Save memory: forget the activations inside blocks and compute them again in the backward pass."""

    compile: bool = False
    """Compile the blocks of the network (torch.compile), which takes minutes at the start and pays in long runs. Sums
    may round differently than without."""

    kernels: bool = False
    """Run depthwise convolutions on kernels of our own (Triton, the extra kernels), for GPUs. They are tested, but no
    GPU has run them: measure before you rely on them (unitgain bench train NETWORK:bfloat16+kernels)."""

    no_normalize_once: bool = False
    """Save memory: normalize weights anew for each microbatch rather than once a step."""

    ema_device: Unset[Literal["cpu"]] = None
    """Where the averages are kept. Default: beside the weights."""

    max_time: Unset[str] = None
    """Stop as on a signal after this time, such as 90m, 11.5h or 1d6h; leave some minutes of the queue's limit for the
    last step and checkpoint."""

    on_checkpoint_error: OnCheckpointError = "stop"
    """What to do when a checkpoint cannot be written."""

    no_tensorboard: bool = False
    """Do not write TensorBoard events."""

    wandb: Unset[str] = None
    """Project of Weights & Biases to log to as well; a resumed run goes on there by itself, unless its
    wandb.json is deleted. WANDB_MODE=offline holds."""

    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Train, and say how it ended."""
        from unitgain.train import Execution, train

        out, config, dataset = self._settings()
        result = train(
            config,
            out,
            dataset,
            resume=self.resume,
            execution=Execution(
                device=pick_device(self.device),
                shard=self.shard,
                recompute=self.recompute,
                compile=self.compile,
                kernels=self.kernels,
                normalize_once=not self.no_normalize_once,
                ema_device=self.ema_device,
                max_time=None if self.max_time is None else parse_duration(self.max_time),
                on_checkpoint_error=self.on_checkpoint_error,
                quiet=self.quiet,
                tensorboard=not self.no_tensorboard,
                wandb=self.wandb,
            ),
        )
        if not result.main:
            return
        if result.finished:
            say(f"finished at {result.nimg:,} images; next: unitgain ema reconstruct {shlex.quote(str(out))} 0.05")
        else:
            say(f"stopped by {result.signal} at {result.nimg:,} images; checkpoint written. Resume with:")
            say(f"  unitgain train --out {shlex.quote(str(out))} --resume")

    def _settings(self) -> "tuple[Path, TrainConfig, Dataset]":
        from unitgain.train.run import load_config

        if self.recipe is None and self.init is None and not (self.resume and self.out):
            raise ValueError("name a recipe, such as: unitgain train digits; or give --out DIR --resume")
        if self.recipe is None and self.out is None:
            raise ValueError("--init without the name of a recipe needs --out DIR for the run")
        out = self.out or Path("runs") / str(self.recipe)
        saved = load_config(out, verify=True) if self.resume and (out / "config.json").exists() else None
        if saved is None and self.recipe is None and self.init is None:
            raise FileNotFoundError(f"{out} holds no run to resume: it has no config.json")
        if saved is not None and self.recipe not in (None, saved.recipe.name):
            saved = None
        init, header = self._init(saved)
        name = self.data or (saved.data if saved is not None else DIGITS)
        normalize = self.normalize or (saved.normalize if saved is not None else "official")
        dataset = load_data(name, normalize)
        base = saved.recipe if saved is not None else self._recipe(header, dataset)
        config = self._override(saved, self._fit_network(base, dataset))
        about = {"data": name, "data_fingerprint": dataset.fingerprint, "init": init}
        return out, dataclasses.replace(config, **about), dataset

    def _init(self, saved: "TrainConfig | None") -> "tuple[Init | None, SnapshotHeader | None]":
        """The snapshot to start from. A run that is resumed needs it no more, but it must be no other one."""
        from unitgain.train.finetune import open_init

        before = None if saved is None else saved.init
        if self.init is None or (before is not None and before.name == self.init):
            return before, None
        return open_init(self.init)

    def _recipe(self, header: "SnapshotHeader | None", dataset: "Dataset") -> Recipe:
        """The recipe that was named, or that of the snapshot, with its network as the data need it."""
        from unitgain.train.finetune import fitted, recipe_of

        if self.recipe is not None or header is None:
            return recipe(str(self.recipe))
        base, said = recipe_of(header)
        if said and not self.quiet:
            note(said)
        return base.replace(network=fitted(header, dataset), sigma_data=header.sigma_data)

    def _fit_network(self, base: Recipe, dataset: "Dataset") -> Recipe:
        """The recipe with the classes and noise levels that were asked for."""
        noise = {name: getattr(self, name) for name in ("sigma_data", "P_mean", "P_std")}
        base = base.replace(**{name: value for name, value in noise.items() if value is not None})
        if self.classes == "recipe":
            if not base.network.label_dim and dataset.label_dim and not (self.quiet or self.resume):
                say(f"note: the {dataset.label_dim} classes of the data are not used; --classes data uses them")
            return base
        if self.classes == "data" and not dataset.label_dim:
            raise ValueError(f"--classes data: {dataset.name} has no labels")
        return base.replace(network=base.network.replace(label_dim=dataset.label_dim if self.classes == "data" else 0))

    def _override(self, saved: "TrainConfig | None", base: Recipe) -> "TrainConfig":
        """The settings of `saved` or, for a new run, the defaults of `base`, with what was given as options."""
        from unitgain.train import Evaluation, TrainConfig

        batch = base.batch if self.batch is None else self.batch
        given = {name: getattr(self, name) for name in ("duration", "snapshot_every", "tick", "checkpoint_every")}
        whole = {name: _whole(name, images, batch) for name, images in given.items() if images is not None}
        snapshot_every = whole.pop("snapshot_every", _whole("snapshot_every", base.snapshot_every, batch))
        changed = base.replace(
            batch=batch,
            duration=whole.pop("duration", _whole("duration", base.duration, batch)),
            lr=base.lr if self.lr is None else self.lr,
            snapshot_every=snapshot_every,
        )
        names = ("seed", "microbatch", "dtype", "snapshot_dtype", "magnitudes_every", "keep_checkpoints", "keep_every")
        names += ("normalize", "workers")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None} | whole
        if self.snapshot_budget is not None:
            chosen["snapshot_budget"] = int(self.snapshot_budget * 1e9)
        chosen |= {name: True for name in ("flip", "cache") if getattr(self, name)}
        before = saved.evaluation if saved is not None else Evaluation()
        chosen["evaluation"] = self.evaluation.settings(before, snapshot_every)
        if saved is not None:
            return dataclasses.replace(saved, recipe=changed, **chosen)
        share = {} if self.microbatch is not None else {"microbatch": _share(batch)}
        tick = _whole("tick", max(snapshot_every // 4, 1), batch)
        defaults = {"data": DIGITS, "tick": tick, "checkpoint_every": snapshot_every, **share}
        return TrainConfig(recipe=changed, **{**defaults, **chosen})


def load_data(name: str, normalize: Normalize = "official") -> "Dataset":
    """The data set of that name: `digits`, or a folder of prepared data.

    Raises:
        ValueError: if there is none, or `normalize` does not go with it.
    """
    from unitgain.data.prepared import PreparedDataset, measured_encoder

    if name == DIGITS:
        from unitgain.data.digits import digits

        return digits()
    if not Path(name).exists():
        raise ValueError(
            f"unknown data set {name!r}: expected digits, or a folder made with: unitgain data prepare SOURCE {name}"
        )
    dataset = PreparedDataset(name)
    if normalize == "measured":
        dataset.encoder = measured_encoder(dataset.manifest)
    return dataset


def _share(batch: int) -> int | None:
    """Images of a microbatch that gives each process of torchrun the same number of them; None for one process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and batch % size:
        raise ValueError(f"a batch of {batch} images does not divide by {size} processes: give --batch or --microbatch")
    return batch // size if size > 1 else None


def _whole(name: str, images: int, batch: int) -> int:
    if images < 1 or batch < 1:
        option = f"--{name.replace('_', '-')} {images}" if images < 1 else f"--batch {batch}"
        raise ValueError(f"{option}: must be at least 1 image")
    return -(-images // batch) * batch
