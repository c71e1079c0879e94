"""The memory estimate of `unitgain inspect`: options and table."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from unitgain.cli.arguments import Device, Unset, pick_device
from unitgain.recipe import Precision, Recipe

if TYPE_CHECKING:
    from unitgain.train.estimate import MemoryEstimate

ROWS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "averages": "averages",
    "gathered": "blocks gathered by FSDP2",
    "activations": "forward and backward pass",
    "kept": "kept by the C library after use",
    "process": "the process itself, measured",
}


NAMES = {"cpu": "process on a CPU", "cuda": "GPU"}


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """How it would be trained; with any of these the memory that takes is estimated, and nothing else shown."""

    batch: Unset[int] = None
    """Images per step over all devices."""

    gpus: int = 1
    """Devices, a process each; processes, for --device cpu."""

    microbatch: Unset[int] = None
    """Images per forward pass. Default: the batch divided by the devices."""

    shard: bool = False
    """With several devices: FSDP2 rather than DDP."""

    recompute: bool = False
    """Activations inside blocks are computed again."""

    dtype: Unset[Precision] = None
    """Precision of the network. Default: the recipe's."""

    ema_device: Unset[Literal["cpu"]] = None
    """Where the averages are kept. Default: beside the weights."""

    device: Device = "auto"
    """For which kind of device: cpu or cuda, which need not be there. auto is what this machine has."""

    @property
    def kind(self) -> str:
        """The kind of device; one that is named need not be there."""
        return pick_device("auto").type if self.device == "auto" else self.device

    @property
    def given(self) -> list[str]:
        """Options that are not what they are by default."""
        return [f"--{one.name.replace('_', '-')}" for one in fields(self) if getattr(self, one.name) != one.default]

    def estimate(self, recipe: Recipe) -> "MemoryEstimate":
        """The memory of training by a recipe, with these options.

        Raises:
            ValueError: if an option is out of range, or they do not go together.
        """
        from unitgain.train.config import Execution
        from unitgain.train.estimate import estimate

        batch = recipe.batch if self.batch is None else self.batch
        if batch < 1 or self.gpus < 1:
            raise ValueError(f"--batch {batch} --gpus {self.gpus}: must be at least 1")
        if self.microbatch is None and batch % self.gpus:
            raise ValueError(f"a batch of {batch} does not divide by {self.gpus} devices: say --microbatch")
        precision = self.dtype or recipe.precision
        return estimate(
            recipe.replace(batch=batch, duration=batch, snapshot_every=batch, precision=precision),
            processes=self.gpus,
            microbatch=self.microbatch,
            execution=Execution(shard=self.shard, recompute=self.recompute, ema_device=self.ema_device),
            device=self.kind,
        )


def memory_table(name: str, options: MemoryOptions, found: "MemoryEstimate") -> Table:
    """A row per part, and the sum."""
    title = f"{name}: memory per {NAMES[options.kind]} at the peak of a step, MiB"
    table = Table(box=None, title=title, title_justify="left", min_width=60)
    table.add_column("part")
    table.add_column("MiB", justify="right")
    for key, title in ROWS.items():
        if value := getattr(found, key):
            table.add_row(title, f"{value / 2**20:,.1f}")
    table.add_row("sum", f"{found.total / 2**20:,.1f}", style="bold")
    where = "more" if found.process else "beside it, on the CPU: averages, and" if options.ema_device else "on the CPU:"
    table.add_row(f"{where} while a checkpoint is written", f"{found.host / 2**20:,.1f}")
    return table
