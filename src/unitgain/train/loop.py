"""A training run from its start to its end: who trains, in which folder, from which checkpoint, and how it stops."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unitgain.checkpoint.snapshot import DTYPES
from unitgain.checkpoint.state import checkpoint_nimg, clear_partial, list_checkpoints
from unitgain.data.dataset import Dataset
from unitgain.data.order import derive
from unitgain.lock import hold
from unitgain.native.memory import kept_memory
from unitgain.parallel import World, is_lost, pick_device, processes
from unitgain.serial import to_dict
from unitgain.text import one_line
from unitgain.train.accumulation import check_memory
from unitgain.train.batches import Batches
from unitgain.train.boards import boards
from unitgain.train.config import Execution, TrainConfig, restarted
from unitgain.train.context import Run
from unitgain.train.errors import LostProcessError, is_shared
from unitgain.train.evaluation import Evaluation, open_evaluation, refuse_idle
from unitgain.train.finetune import Inheritance, open_inheritance
from unitgain.train.fitting import check_data, complete, data_of
from unitgain.train.log import StatsLog, TrainProgress
from unitgain.train.preflight import check_disk, check_folder, preflight
from unitgain.train.resume import resume_from_newest
from unitgain.train.rows import read_stats
from unitgain.train.run import Window, clear_leftovers, refuse_changes, save_config, saved_config
from unitgain.train.saver import Checkpoints
from unitgain.train.signals import REASONS, StopSignal
from unitgain.train.snapshots import Snapshots, store_of
from unitgain.train.state import TrainState
from unitgain.train.statistics import Magnitudes, Statistics
from unitgain.train.step import Observer, StepReport, train_step

LONGEST_REASON = 500  # characters of why a run has stopped, in its statistics


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Attributes:
        nimg: images seen.
        finished: whether the whole duration is done.
        signal: name of the signal that stopped it, or "--max-time", or None.
        checkpoint: images of the newest checkpoint, from which a resume goes on; less than `nimg` where the last one
            could not be written (`on_checkpoint_error="continue"`), None where none could.
        main: whether this is the process that says so.
    """

    nimg: int
    finished: bool
    signal: str | None
    checkpoint: int | None
    main: bool = True


def train(
    config: TrainConfig,
    run: Path | str,
    dataset: Dataset | None = None,
    *,
    resume: bool = False,
    execution: Execution | None = None,
    observe: Callable[[Run], Sequence[Observer]] = lambda run: (),
    **how: Any,
) -> TrainResult:
    """Train to the end of the recipe's duration, or until SIGINT, SIGTERM or SIGUSR1.

    The run folder holds `config.json`, `stats.jsonl`, `snapshots/`, `checkpoints/` and `tensorboard/`. A run that is
    stopped and resumed ends with the same bytes in its snapshots as one that was not. Under torchrun all processes call
    this together; a process group that is there already is used.

    Args:
        config: what to train; what it leaves open is said in the `config.json` of the run.
        run: folder of the run; empty, unless `resume`.
        dataset: images and labels, which must fit the recipe's network (`unitgain.train.fit`); None for those that the
            settings name.
        resume: go on from the newest valid checkpoint of the run, or start where there is none. A restart by torchrun
            (`--max-restarts`) always does.
        execution: how to carry it out.
        observe: makes observers of one's own, which look at the run after those that write its folder.
        how: fields of `Execution`, instead of it or to change some.

    Raises:
        ValueError: if the data do not fit the network, a step does not fit into memory, or `config` would change the
            numbers of the run to resume.
        FileExistsError: if the folder is not empty and `resume` is not given.
        FolderInUseError: if another process trains in it.
        PreflightError: if several processes do not fit together.
        SharedError: if something failed on some of several processes.
        LostProcessError: if another process ended; its own output says why.
        TrainingError: if gradients stay non-finite.
        CheckpointError: if a checkpoint cannot be written, or none of those there is intact.
        OSError: if something else cannot be written; the last checkpoint is intact.
    """
    execution, run = replace(execution or Execution(), **how), Path(run)
    resume = resume or restarted()
    with (
        StopSignal(execution.max_time, execution.quiet) as stop,
        processes(execution.device, cancelled=lambda: stop.received) as world,
        kept_memory(),
    ):
        config, dataset = _settle(config, run, dataset, resume, execution, world)
        inheritance = open_inheritance(config, dataset, run, resume, world)
        evaluation = open_evaluation(config, dataset, run, world, execution.limits)
        with _begin(config, execution, run, dataset, stop, resume, inheritance, world) as under_way:
            observers = [*_observers(under_way, evaluation), *observe(under_way)]
            try:
                loop(under_way, observers)
            except Exception as error:
                _abandon(error, under_way, observers)
                _write_why(under_way, f"{error}" or type(error).__name__)
                raise
            if stop.agreed and not under_way.finished:
                _write_why(under_way, stop.agreed)
            return _result(under_way)


def loop(run: Run, observers: Sequence[Observer]) -> None:
    """Step until the duration is over, or all processes have agreed to stop.

    Args:
        run: under way.
        observers: what looks at it, in this order.
    """
    run.listen()  # a signal that came while the run was being set up
    for observer in observers:
        observer.start()
    first = run.world.size == 1  # a step of a process that nothing has come of yet; several would have to agree
    while not run.finished and not run.stop.agreed:
        report = None
        with run.stop.abandoning() if first else nullcontext():
            report = _step(run, [*observers, run.stop])
        if report is None:
            run.stop.hear(run.stop.votes())
            break
        first = False
        run.stop.hear(report.votes[: len(REASONS)])
        for observer in observers:
            observer.report(report)
    for observer in observers:
        observer.end()


def _result(run: Run) -> TrainResult:
    newest = run.world.broadcast(list_checkpoints(run.folder / "checkpoints")[-1:])
    checkpoint = checkpoint_nimg(newest[0]) if newest else None
    return TrainResult(run.state.nimg, run.finished, run.stop.agreed, checkpoint, run.world.main)


def _step(run: Run, observers: Sequence[Observer]) -> StepReport:
    with ExitStack() as watching:
        for observer in observers:
            watching.enter_context(observer.watching())
        return train_step(
            run.state,
            run.config.recipe,
            run.batches.at(run.state.nimg),
            lambda: [*run.stop.votes(), float(any(observer.failed() for observer in observers))],
            observers=observers,
        )


def _settle(
    config: TrainConfig, run: Path, dataset: Dataset | None, resume: bool, execution: Execution, world: World
) -> tuple[TrainConfig, Dataset]:
    """The settings with everything said, and the data: both checked, and the same on all processes."""
    saved = world.together("checking the run folder", lambda: saved_config(run, resume) if world.main else None)
    saved = world.broadcast(saved)

    def settle() -> tuple[TrainConfig, Dataset]:
        data = data_of(config, dataset)
        settled = complete(config, data, world.device, world.size, saved, execution.quiet or not world.main)
        if saved is not None:
            refuse_changes(settled, saved, run)
        refuse_idle(settled, saved)
        if execution.ema_device:
            pick_device(execution.ema_device, "--ema-device")
        check_data(settled, data)
        if execution.check_memory:
            check_memory(settled, execution, world, resumes=saved is not None)
        return settled, data

    settings, data = world.together("checking the data", settle)
    preflight(world, settings, data, execution, resume)
    return settings, data


@contextmanager
def _begin(
    config: TrainConfig,
    execution: Execution,
    folder: Path,
    dataset: Dataset,
    stop: StopSignal,
    resume: bool,
    inheritance: Inheritance | None,
    world: World,
) -> Iterator[Run]:
    """A run ready for its next step, while its folder is held and its logs are open."""
    with ExitStack() as stack:
        lock = hold(folder) if world.main else nullcontext()
        world.together("locking the run folder", lambda: stack.enter_context(lock))
        check_folder(world, folder)
        batches = Batches(config, dataset, world)
        stack.callback(batches.loader.close)
        state = _open_state(config, execution, inheritance, world)
        store_of(config, folder, dataset, state, resume)  # which refuses a budget before anything is written
        window = resume_from_newest(config, state, folder) if resume else Window()

        def prepare() -> StatsLog:
            clear_leftovers(folder)
            clear_partial(folder / "checkpoints")
            check_disk(state, config, folder)
            shown = boards(folder, state.nimg, to_dict(config), execution.tensorboard, execution.wandb, execution.quiet)
            save_config(config, folder)  # last: what was refused left the folder to the next
            return StatsLog(folder, state.nimg, shown)

        log = world.together("preparing the run folder", lambda: prepare() if world.main else None)
        if log is not None:
            stack.callback(log.close)
        threads = torch.get_num_threads() if world.device.type == "cpu" else 0
        quiet = execution.quiet or not world.main
        progress = TrainProgress(config.recipe.duration, state.nimg, quiet, threads)
        stack.enter_context(progress)
        run = Run(config, execution, folder, dataset, batches, state, window, stop, resume, log, progress)
        if inheritance is not None:
            _tell(run, inheritance)
        yield run


def _observers(run: Run, evaluation: Evaluation | None) -> list[Observer]:
    statistics, snapshots = Statistics(run), Snapshots(run)
    observers = [Magnitudes(run), statistics, snapshots, Checkpoints(run, statistics, snapshots)]
    if evaluation is None:
        return observers
    evaluation.run = run
    return [*observers, evaluation]


def _open_state(config: TrainConfig, execution: Execution, inheritance: Inheritance | None, world: World) -> TrainState:
    torch.manual_seed(derive(config.seed))
    state = TrainState.start(
        config.recipe,
        world.device,
        adapt=lambda *new: inheritance.into(*new) if inheritance is not None else None,
        world=world,
        execution=execution,
        normalize_once=execution.normalize_once and config.microbatches > 1,
    )
    state.denoiser.dtype = DTYPES[config.recipe.precision]
    return state


def _tell(run: Run, inheritance: Inheritance) -> None:
    if run.log is not None:
        if not any("init" in row for row in read_stats(run.folder)):  # a run that was killed early wrote it
            run.log.write({"nimg": 0, "init": inheritance.record()})
        run.progress.note("\n".join(inheritance.report()))


def _write_why(run: Run, why: str) -> None:
    """Leave the reason of a stop in the statistics, as far as a disk that may be full takes it."""
    if run.log is not None:
        with suppress(OSError):
            run.log.write({"nimg": run.state.nimg, "stopped": one_line(why[:LONGEST_REASON])})


def _abandon(error: Exception, run: Run, observers: Sequence[Observer]) -> None:
    """Let what is being written come to its end, and say of a lost process who has to be asked."""
    world = run.world
    if world.size == 1 or is_shared(error):  # then no process waits in vain for another
        for observer in reversed(observers):
            observer.abandon()
    if world.size > 1 and is_lost(error):
        raise LostProcessError(
            f"rank {world.rank} lost another process at {run.state.nimg} images: {error}. The output of the one that "
            "failed first says why; the last checkpoint is intact"
        ) from error
