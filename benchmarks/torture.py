"""Kill a run of two processes at bad moments, damage its files, resume it; it ends with the same bytes or says why not.

A run goes through rounds. In each, one of its processes or both are killed with SIGKILL: at any time, in an optimizer
step, while a checkpoint or a snapshot is written. Then, every other time, one of its files is cut short, has a bit
flipped, or is filled with zeros (every second time one of the newest checkpoint), and the next round resumes it. Every
fourth round nobody is killed.

A run that reaches its end must have the snapshots of an undisturbed run, byte for byte, but for those that were damaged
after they were written and say so when they are read. A run that stops by itself must give a clear error. Anything else
is a failure.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arguments import parse
from machine import write_results
from unitgain.arch import NetworkSpec
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError
from unitgain.checkpoint.state import list_checkpoints
from unitgain.cli.main import explain
from unitgain.data.dataset import ArrayDataset
from unitgain.files import write_text
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.train import TrainConfig, train

PROCESSES = 2
MOMENTS = ("any time", "optimizer step", "checkpoint write", "checkpoint seal", "snapshot")
PRELOAD = ["torch.distributed.fsdp", "torch._dynamo", "torch.onnx", "unitgain.train"]
DAMAGES = ("cut short", "bit flipped", "filled with zeros")
PATIENCE = 30.0
WAIT = 600.0  # seconds after which a process that should end by itself counts as hung
RECIPE = Recipe(
    name="torture",
    network=NetworkSpec(
        resolution=8,
        channels=1,
        label_dim=3,
        model_channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=8,
    ),
    loss=EDMLoss(P_mean=-0.8, P_std=1.0),
    batch=12,
    duration=144,
    lr=0.01,
    t_ref=4,
    rampup=24,
    snapshot_every=48,
    uncertainty_channels=8,
)
CONFIG = TrainConfig(recipe=RECIPE, data="torture", tick=24, checkpoint_every=24, microbatch=4)


@dataclass(frozen=True)
class Kill:
    """When a process is killed: so many seconds after the n-th time that something begins."""

    moment: str
    count: int
    delay: float
    victims: tuple[int, ...]


@dataclass
class Figures:
    """What happened."""

    rounds: int = 0
    faults: Counter = field(default_factory=Counter)
    outcomes: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def dataset() -> ArrayDataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (29, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (29,), generator=generator)
    return ArrayDataset(name="torture", images=images, labels=labels, classes=("a", "b", "c"))


def worker(rank: int, port: int, run: str, kill: Kill | None, shard: bool, said: str) -> None:
    """One process of the run; what it says goes to a file, as does the kind of error that ended it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    if kill is not None and rank in kill.victims:
        arm(kill)
    text, code, kind = io.StringIO(), 0, ""
    try:
        with redirect_stderr(text):
            try:
                train(CONFIG, Path(run), dataset(), resume=True, quiet=True, tensorboard=False, shard=shard)
            except Exception as error:
                os.environ["WORLD_SIZE"] = "1"  # every process is to print
                code, kind = explain(error), type(error).__name__
    finally:
        write_text(Path(said), json.dumps({"code": code, "kind": kind, "text": text.getvalue()}))  # killed here too
    os._exit(code)  # background threads may wait for a process that is dead


def arm(kill: Kill) -> None:
    """Have this process killed at the given moment."""
    from unitgain.checkpoint import sharded
    from unitgain.posthoc import store
    from unitgain.train import saver

    if kill.moment == "any time":
        start_timer(kill.delay)
        return
    owner, name = {
        "optimizer step": (torch.optim.Adam, "step"),
        "checkpoint write": (sharded, "write_tensors"),
        "checkpoint seal": (saver, "commit"),
        "snapshot": (store, "write_average"),
    }[kill.moment]
    setattr(owner, name, counted(getattr(owner, name), kill))


def counted(function: Callable[..., Any], kill: Kill) -> Callable[..., Any]:
    calls = [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == kill.count:
            start_timer(kill.delay)
        return function(*args, **kwargs)

    return call


def start_timer(delay: float) -> None:
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def run_once(run: Path, kill: Kill | None, shard: bool, folder: Path) -> list[dict[str, Any]]:
    """One round: start both processes, wait until they end; what each said, None in place of its code if killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = [folder / f"said{rank}.json" for rank in range(PROCESSES)]
    for path in said:
        path.unlink(missing_ok=True)
    both = [
        context.Process(target=worker, args=(rank, port, str(run), kill, shard, str(said[rank])))
        for rank in range(PROCESSES)
    ]
    for process in both:
        process.start()
    try:
        hung = not await_end(both, kill)
    finally:
        for process in both:
            process.kill()
            process.join()
    results = [
        json.loads(path.read_text()) if path.exists() else {"code": None, "kind": "", "text": ""} for path in said
    ]
    return [{**result, "hung": hung} for result in results]


def await_end(both: list[Any], kill: Kill | None) -> bool:
    """Wait until both processes have ended, and kill the second where both are to die; False if they do not end."""
    end, since = time.monotonic() + WAIT, None
    while any(process.is_alive() for process in both):
        if time.monotonic() > end:
            return False
        dead = any(process.exitcode == -signal.SIGKILL for process in both)
        since = since or (time.monotonic() if dead else None)
        # One that died before the two had met is waited for; torchrun would end the other one 30 seconds later.
        late = since is not None and time.monotonic() - since > PATIENCE
        if dead and kill is not None and (late or len(kill.victims) > 1):
            for process in both:
                process.kill()
        time.sleep(0.02)
    return True


def draw_kill(dice: random.Random) -> Kill:
    moment = dice.choice(MOMENTS)
    all_of_them = dice.random() < 0.5
    only_main = moment in ("checkpoint seal", "snapshot")  # rank 0 does these
    victims = tuple(range(PROCESSES)) if all_of_them else (0 if only_main else dice.randrange(PROCESSES),)
    delay = dice.uniform(0, 6.0) if moment == "any time" else dice.choice([0.0, dice.uniform(0, 0.02)])
    return Kill(moment, dice.randint(1, 4), delay, victims)


def damage(run: Path, dice: random.Random) -> tuple[str, str] | None:
    """Damage one file; what was done to which kind of file."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock" and path.stat().st_size)
    if not files:
        return None
    checkpoints = list_checkpoints(run / "checkpoints")
    newest = [path for path in files if checkpoints and path.parent == checkpoints[-1]]
    # The parts of checkpoints are by far the most, so kinds are drawn first.
    kinds: dict[str, list[Path]] = {}
    for path in newest if newest and dice.random() < 0.5 else files:
        kinds.setdefault(kind_of(path), []).append(path)
    kind, how = dice.choice(sorted(kinds)), dice.choice(DAMAGES)
    path = dice.choice(kinds[kind])
    data = bytearray(path.read_bytes())
    place = dice.randrange(len(data))
    if how == "cut short":
        del data[place:]
    elif how == "bit flipped":
        data[place] ^= 1 << dice.randrange(8)
    else:
        data[:] = bytes(len(data))
    path.write_bytes(data)
    return how, kind


def kind_of(path: Path) -> str:
    if "checkpoints" in path.parts:
        return "manifest" if path.name == "manifest.json" else "checkpoint"
    if "snapshots" in path.parts:
        return "snapshot"
    return path.name


def judge(run: Path, reference: dict[str, bytes]) -> Iterator[str]:
    """What is wrong with a run that reached its end."""
    found = {path.name: path for path in (run / "snapshots").iterdir() if not path.name.startswith(".")}
    for name, data in reference.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name].read_bytes() != data:
            try:
                with Snapshot(found[name]) as snapshot:
                    dict(snapshot.verified())
                yield f"{name} differs and does not say so"
            except SnapshotError:
                pass  # damaged after it was written, and it says so
    for name in ("raw", "0.050", "0.100"):  # written last, after the last damage
        last = f"{RECIPE.duration:010d}-{name}.safetensors"
        if last in found and found[last].read_bytes() != reference[last]:
            yield f"{last} is not that of the undisturbed run"


def torture(rounds: int, seed: int, shard: bool, say: Callable[[str], None], figures: Figures | None = None) -> Figures:
    """Go through that many rounds, in as many runs as it takes; `figures` are filled as it goes."""
    dice, figures = random.Random(seed), figures or Figures()
    with tempfile.TemporaryDirectory(prefix="torture") as temporary:
        folder = Path(temporary)
        undisturbed = run_once(folder / "reference", None, shard, folder)
        if any(result["code"] != 0 for result in undisturbed):
            raise RuntimeError(f"the undisturbed run failed: {undisturbed}")
        reference = {path.name: path.read_bytes() for path in (folder / "reference" / "snapshots").iterdir()}
        run, number = folder / "run0", 0
        while figures.rounds < rounds:
            # Every fourth round nobody is killed, so that runs reach their end.
            kill = None if dice.random() < 0.25 else draw_kill(dice)
            outcome = one_round(run, kill, shard, folder, reference, figures)
            figures.rounds += 1
            say(f"{figures.rounds}: {kill} -> {outcome}")
            if outcome == "killed":
                if dice.random() < 0.5 and run.exists() and (done := damage(run, dice)):
                    figures.faults[f"{done[1]} {done[0]}"] += 1
                    say(f"   {done[1]} {done[0]}")
            else:
                shutil.rmtree(run, ignore_errors=True)
                number += 1
                run = folder / f"run{number}"
    return figures


def one_round(
    run: Path, kill: Kill | None, shard: bool, folder: Path, reference: dict[str, bytes], figures: Figures
) -> str:
    aside = set(run.glob("checkpoints/*.damaged"))
    results = run_once(run, kill, shard, folder)
    figures.outcomes["fell back to an older checkpoint"] += len(set(run.glob("checkpoints/*.damaged")) - aside)
    killed = [rank for rank, result in enumerate(results) if result["code"] is None]
    unclear = [r for r in results if r["code"] and ("not expected" in r["text"] or not r["text"].strip())]
    if any(result["hung"] for result in results):
        outcome = "hung"
    elif killed and kill is not None:
        figures.faults[f"SIGKILL, {kill.moment}, {'all' if len(killed) == PROCESSES else 'one'}"] += 1
        outcome = "killed"
    elif all(result["code"] == 0 for result in results):
        wrong = list(judge(run, reference))
        figures.failures += [f"round {figures.rounds + 1}: {text}" for text in wrong]
        outcome = "wrong result" if wrong else "finished with the same bytes"
    elif unclear:
        outcome = "unclear error"
    else:
        outcome = "stopped with a clear error"
        figures.errors[next(f"{r['kind']}: {shorten(r['text'])}" for r in results if r["code"])] += 1
    if outcome in ("hung", "unclear error"):
        figures.failures.append(f"round {figures.rounds + 1}: {outcome}: {[r['text'][-500:] for r in results]}")
    figures.outcomes[outcome] += 1
    return outcome


def shorten(text: str) -> str:
    line = next((line for line in text.splitlines() if line.startswith("error:")), "")
    for word in line.split():
        if "/" in word:
            line = line.replace(word, Path(word).name)
    return line[:160]


def report(figures: dict[str, Figures]) -> str:
    parts = ["# Torture", "", (__doc__ or "").partition("\n\n")[2].strip(), ""]
    for title, found in figures.items():
        parts += [f"## {title}: {found.rounds} rounds", ""]
        for name, counts in (
            ("fault", found.faults),
            ("outcome", found.outcomes),
            ("error that stopped a run", found.errors),
        ):
            parts += [f"| {name} | times |", "|---|---|"]
            parts += [f"| {key} | {count} |" for key, count in sorted(counts.items())]
            parts.append("")
        parts += [f"Failures: {len(found.failures)}.", *found.failures, ""]
    return "\n".join(parts)


def write(figures: dict[str, Figures], seed: int, folder: Path) -> None:
    plain = {
        title: {key: dict(value) if isinstance(value, Counter) else value for key, value in vars(found).items()}
        for title, found in figures.items()
    }
    write_results("torture", {"seed": seed, "processes": PROCESSES, "figures": plain}, report(figures), folder=folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=75, help="under DDP")
    parser.add_argument("--sharded-rounds", type=int, default=25, help="under FSDP2, which is slower on CPUs")
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, arguments)
    if options.small:
        options.rounds, options.sharded_rounds = 4, 0
    figures = {}
    for title, rounds in (("DDP", options.rounds), ("FSDP2", options.sharded_rounds)):
        if rounds:
            shard = title == "FSDP2"
            figures[title] = Figures()
            with suppress(KeyboardInterrupt):  # Ctrl-C ends a part early, with the rounds that it has had
                torture(rounds, options.seed + shard, shard, partial(print, flush=True), figures[title])
    write(figures, options.seed, options.folder)
    return int(any(found.failures for found in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
