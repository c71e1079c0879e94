"""Post-hoc EMA as a callback of the Hugging Face Trainer."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from unitgain.extras import require
from unitgain.files import atomic
from unitgain.hooks.whole import check_whole
from unitgain.posthoc.store import SnapshotStore

TrainerCallback: Any = require("transformers", extra="transformers").TrainerCallback
STATE = "posthoc_ema.pt"


class PostHocEMA(TrainerCallback):
    """Track averages of the model and store them; the time is the trainer's `global_step`, one per optimizer step.

    The state of the averages lies in the trainer's checkpoints, as `posthoc_ema.pt`.

    Args:
        folder: for the snapshots.
        every: steps between snapshots.
        options: more for `SnapshotStore`: track, update_every, buffers, device, dtype, keep, budget, ...
    """

    def __init__(self, folder: Path | str, *, every: int, **options: Any) -> None:
        self._open = partial(SnapshotStore, Path(folder), every=every, **options)
        self.store: SnapshotStore | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the trackers, and load their state where training goes on from a checkpoint.

        That is `resume_from_checkpoint` of the `TrainingArguments`, or else in their `output_dir`.

        Raises:
            ValueError: if parameters are sharded (FSDP); if there is no state, or it is of another step.
        """
        check_whole(kwargs["model"])
        self.store = self._open(kwargs["model"], main=state.is_world_process_zero)
        if state.global_step:
            folder = getattr(args, "resume_from_checkpoint", None)
            saved = Path(folder) / STATE if isinstance(folder, str | Path) else self._path(args, state)
            if not saved.is_file():
                raise ValueError(
                    f"training goes on at step {state.global_step}, but there is no {saved}: name a checkpoint "
                    "elsewhere in TrainingArguments(resume_from_checkpoint=...), too; if it was written without this "
                    "callback, start a new run, or continue one that had it"
                )
            self.store.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
            if self.store.t != state.global_step:
                raise ValueError(
                    f"training goes on at step {state.global_step}, but the averages in {saved} are of step "
                    f"{self.store.t:g}: name that checkpoint in TrainingArguments(resume_from_checkpoint=...), too"
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update after every optimizer step."""
        assert self.store is not None
        self.store.update(t=state.global_step, dt=state.global_step - self.store.t)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Store the averages as they are at the end."""
        assert self.store is not None
        self.store.close()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the state of the averages into the trainer's checkpoint."""
        assert self.store is not None
        if state.is_world_process_zero:
            with atomic(self._path(args, state)) as temporary:
                torch.save(self.store.state_dict(), temporary)

    @staticmethod
    def _path(args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
