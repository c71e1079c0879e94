"""`unitgain completion`."""

import contextlib
import io
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from unitgain.console import say

OPTIONS = re.compile(r"^│? {1,2}((?:--?[a-zA-Z][\w-]*(?:, )?)+)", flags=re.MULTILINE)  # at the start of a line


@dataclass(frozen=True)
class Completion:
    """Print what makes the Tab key complete commands and options in a shell.

    For bash: unitgain completion bash > ~/.local/share/bash-completion/completions/unitgain; for zsh, in ~/.zshrc:
    source <(unitgain completion zsh).
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """The shell."""

    def run(self) -> None:
        """Print it."""
        say(script(self.shell))


def script(shell: str) -> str:
    """A script that the shell reads once; it knows the commands and options of this version.

    Args:
        shell: "bash" or "zsh".
    """
    from unitgain.cli.commands import COMMANDS

    groups: dict[str, list[str]] = {}
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        groups.setdefault(first, []).extend([second] if second else [])
    cases = {name: f'    "{name}") words="{" ".join(options(name))}" ;;' for name in COMMANDS}
    seconds = [f'    {first}) words="{" ".join(own)} $words" ;;' for first, own in groups.items() if own]
    head = ["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []
    lines = [
        *head,
        "_unitgain() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" first="${COMP_WORDS[1]}" second="${COMP_WORDS[2]}" words=""',
        '  case "$first" in',
        *(line for name, line in cases.items() if " " not in name),
        "  esac",
        '  case "$first $second" in',
        *(line for name, line in cases.items() if " " in name),
        "  esac",
        '  if [ "$COMP_CWORD" -eq 2 ]; then case "$first" in',
        *seconds,
        "  esac; fi",
        f'  if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join(groups)} --help --version"; fi',
        '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -o bashdefault -F _unitgain unitgain",
    ]
    return "\n".join(lines)


def options(command: str) -> list[str]:
    """The long options of a command, in the order of its help."""
    from unitgain.cli.main import read

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        read([*command.split(), "--help"])
    found = (name for line in OPTIONS.findall(text.getvalue()) for name in line.split(", "))
    return list(dict.fromkeys(name for name in found if name.startswith("--")))
