"""`unitgain train`."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import tyro

from unitgain.classes import Classes
from unitgain.cli.arguments import Unset, draw_next
from unitgain.cli.settings import merged, read_settings
from unitgain.cli.words import options, recipe_name
from unitgain.console import next_step, note, say
from unitgain.files import near
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS, RECIPES, recipe
from unitgain.serial import from_dict, to_dict
from unitgain.size import read_size
from unitgain.text import brief, printable
from unitgain.train.config import Execution, TrainConfig, restarted
from unitgain.train.rules import sized

if TYPE_CHECKING:
    from unitgain.data.dataset import Dataset

HELP = ("-h", "--help")
SWITCHES = ("resume", "quiet")  # which the name of a recipe may follow
T = TypeVar("T")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network by a recipe.

    The run folder gets config.json, stats.jsonl, snapshots/ (averaged weights), checkpoints/ and tensorboard/.
    Ctrl-C, SIGTERM or SIGUSR1 finish the step, write a checkpoint and print the command that resumes; the resumed run
    ends with the same weights as one that was not stopped. A second signal aborts at once.

    RECIPE is a name, such as digits. Left out, a network and a recipe are planned for the data on this machine; with
    --init they are those of the snapshot, for the classes, channels and resolution of the data; with --resume those of
    the run. Every field of the recipe is an option: `unitgain train RECIPE --help` shows what they are in that one,
    `unitgain train --help` in digits.

    Under torchrun (torchrun --nproc-per-node 8 -m unitgain train ...) all processes train together.
    """

    recipe: tyro.conf.Suppress[str | None] = None

    out: Unset[Path] = None
    """Folder of the run; must be empty, unless --resume. Default: runs/RECIPE, or runs/ and the name of the data."""

    hours: Unset[float] = None
    """Without a recipe: hours that the training may take. Default: 0.75 on a CPU, 24 on a GPU, or less where the data
    carry less."""

    init: Unset[str] = None
    """Start from the weights of this snapshot: a path, a preset that was fetched, or a repository of the Hugging Face
    Hub. What does not fit is new, and said."""

    resume: Flag = False
    """Go on from the newest valid checkpoint in the folder, with the settings the run was started with."""

    config: Unset[Path] = None
    """YAML or JSON file of settings, all or some, in the form of a run's config.json; `recipe` may be a name, and
    `execution` hold what is said here of that. Options come before it."""

    classes: Literal["data", "none"] = "data"
    """Classes that the network learns: those of the data, or none, to train without labels."""

    settings: TrainConfig
    """What is trained."""

    execution: Execution
    """How it is carried out, which changes nothing of the numbers but the order of sums."""

    words: tyro.conf.Suppress[tuple[str, ...]] = ()

    reasons: tyro.conf.Suppress[tuple[str, ...]] = ()

    @classmethod
    def read(cls, args: Sequence[str]) -> "Train":
        """The command from its arguments; the recipe, the file and the run to resume say what the defaults are.

        Raises:
            ValueError: if it does not say what to train, or the file cannot be read.
            FileNotFoundError: if there is no run to resume.
        """
        name, rest = recipe_name(args, RECIPES, SWITCHES)
        settings = TrainConfig(recipe=recipe(name) if name is not None else DIGITS)
        default = cls(recipe=name, words=tuple(rest), settings=settings, execution=Execution(device="auto"))
        return default.parsed() if set(HELP) & set(rest) else default.started().parsed()

    def started(self) -> "Train":
        """With the defaults of the run that is resumed, or of the recipe, the snapshot or the plan, and of the file."""
        out, init, file = self._said("out"), self._said("init"), read_settings(self._said("config"))
        named = file.get("recipe")
        name = self.recipe or (named.get("name") if isinstance(named, dict) else named)
        if not isinstance(name, str | None):
            raise ValueError(f"--config: recipe is {brief(name)}: expected a name, or fields with one")
        own = self.recipe is None and isinstance(named, dict) and "network" in named  # a whole one, of any name
        resume, data = "--resume" in self.words or restarted(), self._said("data") or file.get("data")
        if name is None and init is None and data is None and not (resume and out):
            raise ValueError(
                "name a recipe, such as: unitgain train digits; or give --data DIR, for which one is planned; or --out "
                "DIR --resume"
            )
        if name is None and init is not None and out is None:
            raise ValueError("--init without the name of a recipe needs --out DIR for the run")
        folder = Path(out or Path("runs") / (name or Path(str(data)).resolve().name))
        start = _saved(folder) if resume else None
        if start is None and name is None and init is None and data is None:
            raise FileNotFoundError(f"{folder} holds no run to resume: it has no config.json{near(folder)}")
        execution = from_dict(Execution, merged(to_dict(self.execution), file.pop("execution", {})), "config.execution")
        started = dataclasses.replace(self, recipe=name, out=folder, execution=execution)
        if start is None and name is None and init is None:
            return started.planned(str(data), file)
        if self._said("hours") is not None and not restarted():
            raise ValueError("--hours is for a run that is planned: leave out the recipe, or give --max-time")
        if start is None or name not in (None, start.recipe.name):
            data = data or TrainConfig.data
            if name is None:
                base = _of_snapshot(str(init), str(data), "--quiet" in self.words)
            else:
                base = DIGITS if own and name not in RECIPES else _with_classes(recipe(name), data)
            start = TrainConfig(recipe=base)
        if isinstance(named, str):
            file["recipe"] = {}
        settings = started.heeding(start, file)
        for option, value in settings.evaluation.programs().items():
            if self._said(option) is None:
                raise ValueError(
                    f"{self._said('config') or folder / 'config.json'} asks for {printable(value)}, which runs code of "
                    f"its own: if you trust it, say so by --{option} {shlex.quote(printable(value))}"
                )
        return dataclasses.replace(started, settings=settings)

    def planned(self, data: str, file: dict[str, Any]) -> "Train":
        """With a network and a recipe for the data on this machine, as far as file and options leave them open.

        Raises:
            ValueError: if the data cannot be opened or no network fits.
        """
        from unitgain.data.named import open_data
        from unitgain.data.settings import Normalize
        from unitgain.train import plan

        def change(config: TrainConfig) -> TrainConfig:
            given = dataclasses.replace(self, settings=self.heeding(config, file)).parsed()
            base = given.settings.recipe
            return dataclasses.replace(given.settings, recipe=_unlabelled(base) if given.classes == "none" else base)

        hours, normalize = self._said("hours"), self._said("normalize") or file.get("normalize", "official")
        main = os.environ.get("RANK", "0") == "0"
        if main and not (self.execution.quiet or "--quiet" in self.words):
            note("measuring how fast this machine trains ...")
        found = plan(
            open_data(data, cast(Normalize, normalize)),
            hours=None if hours is None else _hours(hours),
            device=self._said("device") or self.execution.device,  # type: ignore[arg-type]
            change=change,
        )
        return dataclasses.replace(self, settings=found.config, reasons=found.reasons if main else ())

    def parsed(self) -> "Train":
        """With what the options say, the rest as it is here."""
        width, size = self._said("width") or self._said("model-channels"), self._said("resolution")
        if not set(HELP) & set(self.words):  # what goes with another size follows it
            base = self.settings.recipe
            network = sized(base.network, width=_understood(int, width), resolution=_understood(read_size, size))
            self = dataclasses.replace(
                self, settings=dataclasses.replace(self.settings, recipe=base.replace(network=network))
            )
        prog = f"unitgain train {self.recipe or '[RECIPE]'}"
        parsed = tyro.cli(Train, default=self, args=self.words, prog=prog, config=(tyro.conf.OmitArgPrefixes,))
        base = parsed.settings.recipe
        for option, value, why in (
            ("label-dropout", base.label_dropout, "leaves out labels"),
            ("label-dim", base.network.label_dim, "says how many classes there are"),
        ):
            if parsed.classes == "none" and self._said(option) and value:
                raise ValueError(f"--{option} {why}, and --classes none trains without any: leave one out")
        return parsed

    def heeding(self, settings: TrainConfig, file: dict[str, Any]) -> TrainConfig:
        """Settings, changed as the file has it."""
        return from_dict(TrainConfig, merged(to_dict(settings), file), "config") if file else settings

    def run(self) -> None:
        """Train, and say how it ended.

        Raises:
            CheckpointError: if it was stopped, and there is no checkpoint of where it was.
        """
        from unitgain.checkpoint.state import CheckpointError
        from unitgain.train import train
        from unitgain.train.run import load_config

        out, config, dataset = self.opened()
        if not self.execution.quiet:
            for line in self.reasons:
                say(line)
        result = train(config, out, dataset, resume=self.resume, execution=self.execution)
        if not result.main:
            return
        if result.finished:
            say(f"finished at {result.nimg:,} images; averages are in {out / 'snapshots'}")
            saved = load_config(out)
            draw_next(out, out / f"drawn-{result.nimg}", told=(saved.recipe.network, saved.data))
            return
        stopped = f"stopped by {result.signal} at {result.nimg:,} images"
        if result.checkpoint == result.nimg:
            say(f"{stopped}; checkpoint written")
        if result.checkpoint is not None:
            next_step("resume", "train", "--out", out, "--resume")
        if result.checkpoint != result.nimg:
            left = "there is nothing to resume from"
            if result.checkpoint is not None:
                left = f"a resume goes on from that of {result.checkpoint:,} images"
            raise CheckpointError(f"{stopped}, of which no checkpoint could be written: {left}")

    def opened(self) -> "tuple[Path, TrainConfig, Dataset]":
        """Where to train, what, and on which data, which have their say in it."""
        from unitgain.train.finetune import open_init
        from unitgain.train.fitting import data_of
        from unitgain.train.run import CONFIG

        config, out = self.settings, self.out or Path("runs") / str(self.recipe)
        dataset = data_of(config)
        changes: dict[str, Any] = {"recipe": self._fit(config.recipe, dataset)}
        # A run that is resumed needs the snapshot no more, but it must be no other one.
        if self.init is not None and (config.init is None or config.init.name != self.init):
            changes["init"], _ = open_init(self.init)
        # Left open, they are those of the run; all may be others.
        if self.resume and self._said("conditions") == "all" and (out / CONFIG).exists():
            changes["conditions"] = tuple(dataset.condition_shapes)
        return out, dataclasses.replace(config, **changes), dataset

    def _fit(self, base: Recipe, dataset: "Dataset") -> Recipe:
        """The recipe for the conditions of the data, and without classes, if none are asked for; says what there is."""
        base = self._told(base, dataset)
        if self.classes == "none":
            return _unlabelled(base)
        if base.network.label_dim == dataset.label_dim > 0 and not (self.execution.quiet or self.resume):
            known = Classes(dataset.label_dim, dataset.classes)
            note(f"training with {known.summary()}; --classes none trains without")
        return base

    def _told(self, base: Recipe, dataset: "Dataset") -> Recipe:
        """The recipe with the conditions of the data that are asked for, declared where it does not say how."""
        from unitgain.train.declare import declared

        if self.resume or not (dataset.condition_shapes or base.network.conditions):
            return base
        network, names = base.network, self.settings.conditions
        if names is not None or not set(dataset.condition_shapes) <= {one.name for one in network.conditions}:
            network = network.replace(conditions=declared(dataset, names, network.conditions))
        if network.conditions and not self.execution.quiet:
            told = ", ".join(one.summary for one in network.conditions)
            note(f"training with {told}; --conditions none trains without")
        return base.replace(network=network)

    def _said(self, option: str) -> str | None:
        """What follows an option on the command line, before anything is read of it that depends on the rest."""
        return next(iter(options(self.words).get(option, ())), None)


def _hours(word: str) -> float:
    if (hours := _understood(float, word)) is None:
        raise ValueError(f"--hours: expected a number, such as 0.5, not {brief(word)}")
    return hours


def _understood(read: Callable[[str], T], word: str | None) -> T | None:
    """What a word says, if it does; if not, the options say why."""
    try:
        return None if word is None else read(word)
    except ValueError:
        return None


def _saved(folder: Path) -> TrainConfig | None:
    """The settings of the run in a folder, if there is one."""
    if not (folder / "config.json").exists():
        return None
    from unitgain.train.run import load_config

    return load_config(folder, verify=True)


def _with_classes(base: Recipe, data: object) -> Recipe:
    """A recipe for the classes of the data, or for none where they have none; imports no torch."""
    from unitgain.data.manifest import read_manifest

    if data == DIGITS.name:
        classes = DIGITS.network.label_dim
    elif isinstance(data, str) and Path(data).exists():
        classes = len(read_manifest(Path(data)).classes or ())
    else:  # which is said when it is opened
        return base
    return base.with_network(base.network.replace(label_dim=classes))


def _unlabelled(base: Recipe) -> Recipe:
    return base.with_network(base.network.replace(label_dim=0))


def _of_snapshot(init: str, data: str, quiet: bool) -> Recipe:
    """The recipe of a snapshot, with its network as the data need it."""
    from unitgain.data.named import open_data
    from unitgain.train.finetune import open_init, recipe_of
    from unitgain.train.fitting import fit

    _, header = open_init(init)
    base, text = recipe_of(header, init)
    if text and not quiet:
        note(text)
    return base.with_network(fit(header.network, open_data(data))).replace(sigma_data=header.sigma_data)
