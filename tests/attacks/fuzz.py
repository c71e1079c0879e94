"""Mutated official files: each must end in a clean error or in what the bytes say.

    python tests/attacks/fuzz.py --mutations 100000

Counts outcomes and prints them as JSON. A mutation fails the run if it executes anything (seen by an audit hook), takes
longer than the limit, uses more memory than allowed, raises something other than the errors promised, or converts to
tensors other than those that Python's own unpickler finds in the same bytes.
"""

import argparse
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "benchmarks")]

from official_files import config_of, contents, dumps, random_state

from robustness import mutate, reset_peak, resident
from unitgain.checkpoint.convert import convert_network
from unitgain.checkpoint.nvidia import rename
from unitgain.checkpoint.origin import Origin
from unitgain.checkpoint.pickles import SMALL
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError
from unitgain.evaluate.references import open_references
from unitgain.metrics.reference import ReferenceFileError

SECONDS = 20  # per file; it takes milliseconds, but machines are busy at times
# What running code needs, and reading a file does not.
FORBIDDEN = ("exec", "compile", "import", "os.system", "os.fork", "os.posix_spawn", "pty.spawn", "subprocess.Popen")
FORBIDDEN += ("socket.connect", "socket.__new__", "pickle.find_class", "ctypes.dlopen", "code.__new__")
ADDRESS_SPACE = 6 * 2**30  # a safeguard for the machine: what goes wrong ends in a MemoryError, which is a failure
watching = False
seen: list[str] = []

PAYLOADS = [
    b"cos\nsystem\n(X\x04\x00\x00\x00truetR",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R",
    b"cbuiltins\neval\n\x8c\x011\x85R",
    b"ctorch.storage\n_load_from_bytes\nC\x05cos\n.\x85R",
    b"(S'true'\nios\nsystem\n",
    b"\x8f(K\x01K\x02\x90",
    b"2",
    b"0",
    b"1",
    b"h\x00",
    b"q\x00",
    b"}",
    b"]",
    b")",
    b"t",
    b"(",
    b"R",
    b"b",
    b"s",
    b"u",
    b"\x81",
    b"\x93",
    b"N",
    b"\x8b\xff\xff\xff\x7f",
    b"B\xff\xff\xff\xff",
    b"\x8e" + b"\xff" * 7 + b"\x0f",
    b"\x95" + b"\xff" * 8,
    b"r\xff\xff\xff\xff",
]
WORDS = [
    b"Precond",
    b"UNet",
    b"Block",
    b"MPConv",
    b"ema",
    b"_parameters",
    b"_modules",
    b"_buffers",
    b"state",
    b"weight",
]
WORDS += [b"cpu", b"HalfStorage", b"FloatStorage", b"torch", b"posix", b"system", b"class", b"num_blocks", b"latin1"]


def watch(event, _):
    if watching and (event in FORBIDDEN or event.startswith(("os.exec", "os.spawn"))):
        seen.append(event)


def tolerant(function):
    """Errors as results: what nothing reads may be wrong."""

    def called(*args):
        try:
            return function(*args)
        except Exception as error:
            return error

    return called


class Oracle(pickle._Unpickler):
    """Python's unpickler with harmless stand-ins, and torch's restricted loader for storages.

    The one written in Python: that in C makes room for every place of the memo up to the highest, 16 GB of them.
    """

    def find_class(self, module, name):
        stand_ins = {
            "_reconstruct_persistent_obj": lambda meta: ("object", meta),
            "_load_from_bytes": tolerant(lambda data: torch.load(io.BytesIO(data), weights_only=True)),
            "_rebuild_tensor_v2": tolerant(torch._utils._rebuild_tensor_v2),
            "_rebuild_parameter": tolerant(lambda tensor, *_: tensor),
            "EasyDict": dict,
            "encode": lambda text, _: text.encode("latin1"),
            "ModuleDict": Container,
            "ModuleList": Container,
            "Sequential": Container,
        }
        return stand_ins[name] if name in stand_ins else super().find_class(module, name)


class Container:
    pass


def expected(data: bytes) -> dict[str, torch.Tensor]:
    """Tensors of the network by our names, as Python's unpickler reads them."""
    root = Oracle(io.BytesIO(data)).load()
    found = {}

    def walk(module, prefix):
        state = vars(module) if isinstance(module, Container) else module[1]["state"]
        hidden = state.get("_non_persistent_buffers_set", ())
        tensors = {k: v for k, v in state["_buffers"].items() if k not in hidden} | state["_parameters"]
        found.update({prefix + name: tensor for name, tensor in tensors.items() if tensor is not None})
        for name, child in state["_modules"].items():
            if child is not None:
                walk(child, f"{prefix}{name}.")

    walk(root["ema"], "")
    kwargs = root["ema"][1]["state"]["_init_kwargs"]
    return rename(found, kwargs.get("channels_per_head") or 64)


def attempt(kind: str, path: Path, out: Path) -> str:
    if kind == "reference":
        open_references(path)
        return "converted"
    convert_network(path, out, Origin(nimg=1024, sigma_rel=0.05, recipe="fuzz"))
    return "converted"


def check(path: Path, out: Path) -> str:
    """What is wrong with a conversion, by Python's unpickler; empty if nothing is."""
    with Snapshot(out) as snapshot:
        found = dict(snapshot.verified())
    try:
        wanted = expected(path.read_bytes())
        wrong = [name for name, tensor in found.items() if not torch.equal(tensor, wanted[name].to(tensor.dtype))]
    except (UnicodeDecodeError, MemoryError):
        return ""  # source code that is not UTF-8 and places of the memo past all others are of no account here
    except Exception as error:
        return f"converted, but Python's unpickler says {type(error).__name__}: {error}"
    return f"{wrong[0]} is not what the file holds" if wrong else ""


def seeds() -> list[tuple[str, bytes]]:
    """The files that are mutated."""
    config = config_of(channel_mult=[1], attn_resolutions=[])
    state = random_state(config)
    networks = [dumps(contents(state, config, latents=p == 4), p) for p in (2, 4, 5)]
    mean, cov = np.arange(8.0), np.diag(np.arange(8.0))
    statistics = {"fid": {"mu": mean, "sigma": cov}, "fd_dinov2": {"mu": mean + 1, "sigma": cov + 1}}
    return [*(("network", data) for data in networks), *(("reference", pickle.dumps(statistics, p)) for p in (2, 4, 5))]


def run(mutations: int, seed: int, folder: Path, traced: int, minutes: float = float("inf")) -> dict:
    """Fuzz; returns counts and extremes, and the failures."""
    global watching
    chance = random.Random(seed)
    files = seeds()
    for number, (kind, data) in enumerate(files):  # whatever is loaded on first use is loaded now
        (folder / "warm.pkl").write_bytes(data)
        assert attempt(kind, folder / "warm.pkl", folder / "out.safetensors") == "converted", number
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("took too long")))
    counts, failures, slowest, most, grown, before = Counter(), [], 0.0, 0, 0, 0
    path = folder / "mutated.pkl"
    end = time.monotonic() + 60 * minutes
    for number in range(mutations):
        if time.monotonic() > end:
            mutations = number
            break
        kind, data = files[0] if chance.random() < 0.2 else chance.choice(files)
        data = mutate(data, chance, False, PAYLOADS, WORDS) or b"."
        path.write_bytes(data)
        trace = traced and number % traced == 0
        if trace:
            tracemalloc.start()
        measure = number % 4 == 0  # of the resident memory; the kernel takes its time
        if measure:
            reset_peak()
            before = resident(peak=False)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        began, watching, problem = time.perf_counter(), True, ""
        try:
            outcome = attempt(kind, path, folder / "out.safetensors")
        except (Refused, ReferenceFileError, SnapshotError) as error:
            outcome = "not finite" if isinstance(error, SnapshotError) else "refused"
            if not str(error).isprintable():
                problem = "unprintable message"
        except BaseException as error:
            outcome, problem = "failed", f"{type(error).__name__}: {error}"
        finally:
            watching = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - began)
        growth = resident(peak=True) - before if measure else 0
        grown = max(grown, growth)
        if growth > max(2 * len(data), SMALL):
            problem = f"{growth} bytes of memory for a file of {len(data)}"
        if trace:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            most = max(most, peak)
            if peak > max(2 * len(data), SMALL):
                problem = f"{peak} bytes of memory for a file of {len(data)}"
        if seen:
            problem = f"executed {seen}"
            seen.clear()
        if outcome == "converted" and kind == "network":
            problem = problem or check(path, folder / "out.safetensors")
        if problem:
            failures.append(f"mutation {number} of seed {seed}: {problem}")
            (folder / f"failure-{number}.pkl").write_bytes(data)
        counts[outcome] += 1
    return {
        "mutations": mutations,
        "outcomes": dict(counts),
        "failures": failures[:20],
        "slowest_seconds": round(slowest, 3),
        "largest_traced_bytes": most,
        "largest_resident_growth_bytes": grown,
        "file_bytes": [len(data) for _, data in files],
    }


def main() -> None:
    """Read the arguments, fuzz, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--traced", type=int, default=20, help="measure the memory of every n-th; 0 for none")
    parser.add_argument("--keep", type=Path, help="folder for files that fail")
    given = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
        result = run(given.mutations, given.seed, given.keep or Path(folder), given.traced, given.minutes)
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["failures"]))


if __name__ == "__main__":
    main()
