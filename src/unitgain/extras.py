"""What is imported where it is used: optional dependencies, and what users name."""

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of this package brings it.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{package} is not installed: pip install 'unitgain[{extra}]' brings it") from error


def import_named(name: str, what: str) -> Any:
    """What `module:attribute` names, such as a detector of the user's own. The code of the module runs.

    Args:
        name: of the user's, never of a file.
        what: is named, for errors.

    Raises:
        ValueError: if there is no such module or attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(f"{what} {name!r}: {error}; is it on the Python path (PYTHONPATH)?") from error
    except AttributeError as error:
        raise ValueError(f"{what} {name!r}: module {module} has no {attribute!r}") from error


def source_hash(module: str) -> str | None:
    """SHA-256 of the source of an imported module, in hexadecimal digits; None where there is none to read."""
    try:
        source = inspect.getsourcefile(sys.modules[module])
        return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None
    except (KeyError, TypeError, OSError):  # of no module, or of one in C or of a prompt
        return None
