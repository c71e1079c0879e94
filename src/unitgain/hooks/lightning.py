"""Post-hoc EMA as a callback of PyTorch Lightning."""

from functools import partial
from pathlib import Path
from typing import Any

from unitgain.extras import require
from unitgain.hooks.whole import check_whole
from unitgain.posthoc.store import SnapshotStore

try:
    Callback: Any = require("lightning.pytorch", extra="lightning").Callback
except ImportError:
    Callback = require("pytorch_lightning", extra="lightning").Callback


class PostHocEMA(Callback):
    """Track averages of the module and store them; the time is the trainer's `global_step`, one per optimizer step.

    The state of the averages travels in Lightning's checkpoints.

    Args:
        folder: for the snapshots.
        every: steps between snapshots.
        options: more for `SnapshotStore`: track, update_every, buffers, device, dtype, keep, budget, ...
    """

    def __init__(self, folder: Path | str, *, every: int, **options: Any) -> None:
        super().__init__()
        self._open = partial(SnapshotStore, Path(folder), every=every, **options)
        self.store: SnapshotStore | None = None
        self._state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the trackers, when the weights are where they will be trained.

        Raises:
            ValueError: if parameters are sharded (FSDP), or training goes on from a checkpoint without averages.
        """
        if self.store is None:
            check_whole(pl_module)
            self.store = self._open(pl_module, main=trainer.is_global_zero)
        if self._state is not None:
            self.store.load_state_dict(self._state)
            self._state = None
        if trainer.global_step != self.store.t:
            raise ValueError(
                f"training goes on at step {trainer.global_step}, but the averages are of step {self.store.t:g}: the "
                "checkpoint was written without this callback; start a new run, or continue one that had it"
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update after every optimizer step, not after batches that only accumulate gradients."""
        assert self.store is not None
        if trainer.global_step > self.store.t:
            self.store.update(t=trainer.global_step, dt=trainer.global_step - self.store.t)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Store the averages as they are at the end."""
        assert self.store is not None
        self.store.close()

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints."""
        return {} if self.store is None else self.store.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoints; used when training starts."""
        self._state = state_dict or None
