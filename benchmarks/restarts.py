"""Kill `unitgain data prepare` and `encode` with SIGKILL at random moments: `python benchmarks/restarts.py`.

Each is killed ten times, started again after each kill, and must end with the same bytes as an undisturbed run and with
no process left behind. Figures go to `results/restarts.json` and `.md`.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from arguments import parse
from machine import write_results
from preparing import write_photographs

ENTRY = "from unitgain.cli.main import main; main()"


def command(*arguments: object) -> subprocess.Popen[bytes]:
    """A command of its own session, so that what it leaves behind can be found."""
    call = [sys.executable, "-c", ENTRY, *map(str, arguments)]
    return subprocess.Popen(call, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> float:
    """Wait for success; returns the seconds that took."""
    start = time.monotonic()
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()
    return time.monotonic() - start


def left_behind(session: int, seconds: float = 10) -> int:
    """How many processes of a session are still there after a while (Linux)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (found := _members(session)):
        time.sleep(0.2)
    return len(found)


def _members(session: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                members.append(int(entry.name))
    return members


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def finished(folder: Path) -> int:
    """How many shards an unfinished job has finished."""
    return len(list((folder / ".unfinished").glob("[0-9]*.json")))


def torment(folder: Path, arguments: list[object], kills: int) -> dict[str, Any]:
    """Run undisturbed, then with kills; the destination takes the place of None among the arguments."""

    def to(name: str) -> list[object]:
        return [folder / name if argument is None else argument for argument in arguments]

    undisturbed = finish(command(*to("undisturbed")))
    total = len(list((folder / "undisturbed").glob("*.arrow")))
    orphans, shards = 0, []
    for _ in range(kills):
        wanted = finished(folder / "killed") + random.randint(0, total // (kills + 1))
        process = command(*to("killed"))
        while finished(folder / "killed") < wanted and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.1) if random.random() < 0.7 else random.uniform(0, 3))  # some while it starts
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        orphans += left_behind(process.pid)
        shards.append(finished(folder / "killed"))
    last = finish(command(*to("killed")))
    same = contents(folder / "undisturbed") == contents(folder / "killed")
    return {
        "killed": len(shards),
        "same_bytes": same,
        "processes_left_behind": orphans,
        "finished_shards_after_each_kill": shards,
        "undisturbed_seconds": undisturbed,
        "last_run_seconds": last,
    }


def save_vae(folder: Path) -> None:
    """A small random VAE."""
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
    ).save_pretrained(str(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="for the files")
    args = parse(parser, arguments)
    if args.small:
        args.files, args.kills = 2, 1
    random.seed(args.seed)
    results = {}
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        root = Path(name)
        write_photographs(root / "photographs", args.files)
        options = ["--resolution", 64, "--shard", max(args.files // 60, 1), "--workers", 2]
        (root / "prepare").mkdir()
        results["prepare"] = torment(
            root / "prepare", ["data", "prepare", root / "photographs", None, *options], args.kills
        )
        if not args.small:
            save_vae(root / "vae")
            (root / "encode").mkdir()
            source = root / "prepare" / "undisturbed"
            results["encode"] = torment(
                root / "encode", ["data", "encode", source, None, "--vae", root / "vae", "--device", "cpu"], args.kills
            )
    rows = [
        f"| `{name}` | {found['killed']} | {'yes' if found['same_bytes'] else 'NO'} "
        f"| {found['processes_left_behind']} | {', '.join(map(str, found['finished_shards_after_each_kill']))} |"
        for name, found in results.items()
    ]
    table = "\n".join(rows)
    text = f"""# Restarts

`unitgain data prepare` ({args.files:,} files, two processes) and `encode`, killed with SIGKILL at random moments and
started again after each; then compared with an undisturbed run, file by file.

| command | kills | same bytes in the end | processes left behind | finished shards after each kill |
|---|---|---|---|---|
{table}
"""
    write_results("restarts", results, text, folder=args.folder)
    print(text)
    assert all(found["same_bytes"] and not found["processes_left_behind"] for found in results.values())


if __name__ == "__main__":
    main()
