"""Post-hoc EMA in a loop of Hugging Face Accelerate."""

from pathlib import Path
from typing import Any

from torch import nn

from unitgain.extras import require
from unitgain.hooks.whole import check_whole
from unitgain.posthoc.store import SnapshotStore


class PostHocEMA(SnapshotStore):
    """A `SnapshotStore` that knows its `Accelerator`.

    It looks behind the wrappers of the model, writes on the main process only, waits for the end of gradient
    accumulation, and is saved and loaded with `accelerator.save_state` and `load_state`.

    Args:
        accelerator: the `Accelerator`.
        model: what `accelerator.prepare` returned for the model.
        folder: for the snapshots.
        every: time between snapshots.
        options: more for `SnapshotStore`: track, update_every, buffers, device, dtype, keep, budget, ...

    Raises:
        ImportError: if accelerate is not installed.
        ValueError: if parameters are sharded (FSDP), and as `SnapshotStore`.
    """

    def __init__(
        self,
        accelerator: Any,
        model: nn.Module,
        folder: Path | str,
        *,
        every: float,
        **options: Any,
    ) -> None:
        require("accelerate", extra="accelerate")
        plain = accelerator.unwrap_model(model)
        check_whole(plain)
        super().__init__(folder, plain, every=every, main=accelerator.is_main_process, **options)
        self._accelerator = accelerator
        accelerator.register_for_checkpointing(self)

    def update(self, t: float, dt: float) -> bool:
        """As `SnapshotStore.update`; does nothing while gradients accumulate, so it may be called every iteration.

        Time passes with updates alone: `ema.update(t=ema.t + 1, dt=1)` counts the steps of the optimizer.
        """
        if not self._accelerator.sync_gradients:
            return False
        return super().update(t, dt)
