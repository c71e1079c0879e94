"""The entry point of `unitgain`: finds the command, and imports nothing that another one needs."""

import errno
import os
import select
import shutil
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from unitgain.cli.commands import COMMANDS, GROUPS
from unitgain.cli.words import refuse_repeated
from unitgain.console import Console, label, say, warn
from unitgain.serial import suggest
from unitgain.version import __version__

DESCRIPTION = f"unitgain {__version__}: train, average and sample magnitude-preserving diffusion models."
TRACEBACK = "UNITGAIN_TRACEBACK"
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
HELP = ("-h", "--help")
LONGEST = 4000  # characters of an error
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, of what this user may fill of it, of a file
POSIX = ("fcntl", "resource")  # modules of Python that Windows lacks
# How long a thread that waits turns around before it sleeps: turns of GNU's OpenMP, milliseconds of Intel's. By itself
# GNU's does so for seconds, which takes from whoever computes beside it, and so from the run (benchmarks/busy.py).
SPINNING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command, or say in one line why not.

    Exits with 0 when all went well, 2 when the command was used wrongly (an unknown name, a value out of range, an
    output folder that is not empty), 1 when it failed (a damaged file, a full disk, nobody who reads what it
    prints), 130 when it was interrupted.
    """
    bound_spinning()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata, and of sizes that are still no bomb
        warnings.showwarning = lambda message, *where, **more: warn(message)
        try:
            command = read(sys.argv[1:] if args is None else args)
            if command is not None:
                command.run()
            sys.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and nobody_reads():
                sys.exit(1)
            if os.environ.get(TRACEBACK):
                raise
            sys.exit(explain(error))
        except SystemExit:
            nobody_reads()  # the end of a help that is not read
            raise


def nobody_reads() -> bool:
    """Whether what read standard output, as `| head`, has gone; what is printed from then on goes nowhere."""
    try:
        out, poll = sys.stdout.fileno(), select.poll()
    except (AttributeError, OSError):  # no file, or a system without poll
        return False
    poll.register(out, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return gone


def read(args: Sequence[str]) -> Any:
    """The command that was asked for, with its options; None if that was help or the version, which is shown.

    Raises:
        ValueError: if there is no such command.
        SystemExit: if its options are wrong, or its help was asked for.
    """
    first, second = [*args, "", ""][:2]
    if args and first == "--version":
        say(__version__)
        return None
    if first in ("", *HELP):
        return _overview("unitgain", DESCRIPTION, _firsts(), asked=bool(first))
    name = f"{first} {second}" if f"{first} {second}" in COMMANDS else first
    if name in COMMANDS:
        rest = list(args)[len(name.split()) :]
        chosen = COMMANDS[name].load()
        refuse_repeated(rest, chosen)
        reader = getattr(chosen, "read", None)  # one whose defaults depend on what is given reads for itself
        if reader is not None:
            return reader(rest)
        shape = getattr(chosen, "for_arguments", None)  # one that has options of the sampler that is named
        chosen = shape(rest) if shape else chosen
        return tyro.cli(chosen, prog=f"unitgain {name}", args=rest, config=CONFIG)
    if first not in GROUPS:
        raise ValueError(f"unknown command {first!r}; {suggest(first, _firsts())}")
    own = {name.split()[1]: one.summary for name, one in COMMANDS.items() if name.startswith(f"{first} ")}
    if second not in ("", *HELP):
        raise ValueError(f"unknown command {f'{first} {second}'!r}; {suggest(second, own)}")
    return _overview(f"unitgain {first}", GROUPS[first], own, asked=bool(second))


def bound_spinning() -> None:
    """Have threads that wait sleep soon, unless the user has said what they do; to be called before torch is there."""
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        for name, value in SPINNING.items():
            os.environ.setdefault(name, value)


def _firsts() -> dict[str, str]:
    """First words of commands, and what is said of them, in order."""
    first = {name.split()[0]: "" for name in COMMANDS}
    return {name: GROUPS[name] if name in GROUPS else COMMANDS[name].summary for name in first}


def _overview(prog: str, description: str, commands: Mapping[str, str], asked: bool) -> None:
    """Show the commands; where nobody asked for that, one is missing."""
    width = min(shutil.get_terminal_size().columns, 100)
    edge = max(map(len, commands)) + 4
    say(f"usage: {prog} COMMAND [OPTIONS]\n\n{textwrap.fill(description, width)}\n")
    for name, summary in commands.items():
        lines = textwrap.wrap(summary, max(width - edge, 20))
        say(f"  {name:<{edge - 2}}" + f"\n{' ' * edge}".join(lines))
    say(f"\nOptions of a command: {prog} COMMAND --help")
    if not asked:
        sys.exit(2)


def explain(error: Exception) -> int:
    """Print what went wrong, without a traceback; returns the exit code."""
    several, rank = int(os.environ.get("WORLD_SIZE", "1")) > 1, os.environ.get("RANK", "0")
    shared = several and _is_shared(error)
    console = Console(stderr=True, soft_wrap=True, quiet=shared and rank != "0")
    usage = isinstance(error, ValueError | FileNotFoundError | FileExistsError | ImportError)
    known = usage or isinstance(error, OSError) or type(error).__module__.startswith("unitgain.")
    text = str(error) if known else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in FULL:
        text = f"no space is left for {error.filename}: make room, and give the command again ({error.strerror})"
    if isinstance(error, ImportError) and error.name in POSIX:
        text = f"unitgain needs Linux or another Unix: on Windows, run it in WSL ({error})"
    if not known and _lacks_memory(error):
        known, first = True, (str(error).splitlines() or [""])[0]
        text = f"memory ran out: take smaller batches (--batch, --microbatch), or a smaller network. {first}".strip()
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."  # names and values from files have any length
    where = f" rank {rank}:" if several and not shared else ""
    console.print(label("error:", f"{where} {text}", "bold red"))
    if not known:
        console.print(f"This was not expected. Set {TRACEBACK}=1 to see where it happened.")
    return 2 if usage else 1


def _lacks_memory(error: Exception) -> bool:
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def _is_shared(error: Exception) -> bool:
    from unitgain.train.errors import is_shared

    return is_shared(error)
