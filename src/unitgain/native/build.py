"""C sources into libraries, by the machine's own compiler, for its own processor."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from unitgain.console import note
from unitgain.files import atomic, cache_folder, make_folder, sha256

NATIVE = "UNITGAIN_NATIVE"
"""Environment variable: 0 for no C at all, 1 to be told why it cannot be used; by default it is used if it can be."""

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
SECONDS = 120  # that a compiler may take
PRINTED, SHOWN = 2**20, 2000  # characters that it may print, and the last of them that an error has

_endless: set[str] = set()  # compilers that took too long in this process


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The library of `name`.c, from the cache or compiled now; None where that is switched off or fails.

    A compiler that takes too long is not asked again, and a note says so.

    It is compiled for this processor and kept under a name that depends on the source, the compiler, the processor and
    its own bytes, in a folder that is private to the user: what is loaded is whole, and was made by the same user.

    Raises:
        RuntimeError: if it cannot be had and `UNITGAIN_NATIVE` is 1; the message says why.
    """
    choice = os.environ.get(NATIVE, "")
    if choice == "0":
        return None
    try:
        return ctypes.CDLL(str(_compiled(name)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        if isinstance(error, subprocess.TimeoutExpired) and choice != "1":
            note(
                f"note: {error.cmd} took over {SECONDS} s: going on without C, and more slowly; {NATIVE}=0 does not try"
            )
        if choice == "1":
            raise RuntimeError(
                f"{name}.c cannot be used: {reason}. {NATIVE}=0 does without, and more slowly"
            ) from error
        return None


def _compiled(name: str) -> Path:
    source = Path(__file__).parent / f"{name}.c"
    text = source.read_text(encoding="utf-8")
    shared = [header.read_text(encoding="utf-8") for header in sorted(source.parent.glob("*.h"))]
    compiler = _compiler()
    version = _run([*compiler, "--version"])
    identity = "\0".join([text, *shared, version, *compiler, *FLAGS, _processor()])
    folder = _private(cache_folder() / "native")
    stem = f"{name}-{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    for path in sorted(folder.glob(f"{stem}-*.so")):
        if _is_intact(path):
            return path
        path.unlink(missing_ok=True)  # cut short, or not ours
    with tempfile.TemporaryDirectory() as scratch:
        unlinked, linked = Path(scratch) / f"{name}.o", Path(scratch) / f"{name}.so"
        # Not linked with a library of threads: those of torch, which are there already, are the ones to use.
        threads = ["-fopenmp"] if "#pragma omp" in text else []
        _run([*compiler, *FLAGS, *threads, "-c", "-o", str(unlinked), str(source)])
        _run([*compiler, "-shared", "-o", str(linked), str(unlinked), "-lm"])
        path = folder / f"{stem}-{sha256(linked)}.so"
        with atomic(path) as temporary:
            shutil.copyfile(linked, temporary)
    path.chmod(0o600)  # whatever the umask says
    return path


def _private(folder: Path) -> Path:
    """Make a folder, if it is not there, that nobody but this user can enter.

    Raises:
        OSError: if it is another user's, or a link.
    """
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != _user():
        raise PermissionError(f"{folder} is not a folder of this user: choose another place with UNITGAIN_CACHE")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def _is_intact(path: Path) -> bool:
    """Whether this user made a library, nobody else can write to it, and its bytes are those of its name."""
    status = path.lstat()
    private = stat.S_ISREG(status.st_mode) and status.st_uid == _user() and not status.st_mode & 0o022
    return private and path.stem.endswith(f"-{sha256(path)}")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0  # as `stat` says where there are no numbers of users


def _run(command: list[str]) -> str:
    """What a compiler prints.

    Raises:
        OSError: if there is no such program.
        subprocess.SubprocessError: if it fails, takes too long or prints without end; all that it has started is ended.
    """
    if command[0] in _endless:
        raise subprocess.SubprocessError(f"{command[0]} did not end before")
    late = threading.Event()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        timer = threading.Timer(SECONDS, lambda: (late.set(), _end(process)))
        timer.start()
        try:
            text = process.stdout.read(PRINTED + 1) if process.stdout is not None else ""
            if len(text) > PRINTED:
                raise subprocess.SubprocessError(f"{command[0]} prints more than {PRINTED:,} characters")
            code = process.wait()
        finally:
            timer.cancel()
            if process.returncode is None:
                _end(process)
    if late.is_set():
        _endless.add(command[0])
        raise subprocess.TimeoutExpired(command[0], SECONDS)
    if code:
        raise subprocess.CalledProcessError(code, command[0], stderr=text[-SHOWN:].strip() or None)
    return text


def _end(process: subprocess.Popen[str]) -> None:
    """End a compiler, and the programs that it has started, which would hold what it prints open."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _compiler() -> list[str]:
    text = os.environ.get("CC", "")
    try:
        if command := shlex.split(text):
            return command
    except ValueError as error:
        raise FileNotFoundError(f"CC={text!r} is no command: {error}") from error
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
