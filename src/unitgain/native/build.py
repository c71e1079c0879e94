"""C sources into libraries, by the machine's own compiler, for its own processor."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from unitgain.files import atomic, cache_folder

NATIVE = "UNITGAIN_NATIVE"
"""Environment variable: 0 for no C at all, 1 to be told why it cannot be used; by default it is used if it can be."""

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""Numbers of types, as C has them."""

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
SECONDS = 120  # that a compiler may take


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The library of `name`.c, from the cache or compiled now; None where that is switched off or fails.

    It is compiled for this processor and kept under a name that depends on the source, the compiler and the processor.

    Raises:
        RuntimeError: if it cannot be had and `UNITGAIN_NATIVE` is 1; the message says why.
    """
    wanted = os.environ.get(NATIVE, "")
    if wanted == "0":
        return None
    try:
        return ctypes.CDLL(str(_compiled(name)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        if wanted == "1":
            raise RuntimeError(f"{name}.c cannot be used: {said}. {NATIVE}=0 does without, and more slowly") from error
        return None


def check_place(x: Tensor) -> None:
    """Raise `ValueError` unless `x` is where C can read it."""
    if x.device.type != "cpu":
        raise ValueError(
            f"images are on {x.device}, and this network was prepared for CPUs: move the one that it was made from, "
            "and prepare that"
        )


def check_layout(made_for: object, here: object) -> None:
    """Raise `RuntimeError` unless weights were laid out as this machine's library reads them."""
    if made_for != here:
        raise RuntimeError("this network was prepared for another processor or compiler: prepare it here")


def _compiled(name: str) -> Path:
    source = Path(__file__).parent / f"{name}.c"
    text = source.read_text(encoding="utf-8")
    shared = [header.read_text(encoding="utf-8") for header in sorted(source.parent.glob("*.h"))]
    compiler = _compiler()
    version = _run([*compiler, "--version"])
    identity = "\0".join([text, *shared, version, *compiler, *FLAGS, _processor()])
    path = cache_folder() / "native" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        with atomic(path) as temporary, tempfile.TemporaryDirectory() as folder:
            made = str(Path(folder) / f"{name}.o")
            # Not linked with a library of threads: those of torch, which are there already, are the ones to use.
            threads = ["-fopenmp"] if "#pragma omp" in text else []
            _run([*compiler, *FLAGS, *threads, "-c", "-o", made, str(source)])
            _run([*compiler, "-shared", "-o", str(temporary), made, "-lm"])
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def _compiler() -> list[str]:
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in COMPILERS:
        if (path := shutil.which(name)) is not None:
            return [path]
    raise FileNotFoundError(f"no C compiler: looked for $CC, {', '.join(COMPILERS)}")


def _processor() -> str:
    """What the compiler's choice of instructions depends on; caches may lie on a disk that many machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(flags)])
