"""What is imported where it is used: optional dependencies, and what users name."""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

INSTALLED = ("site-packages", "dist-packages")  # folders of modules that have nothing to do with each other


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
    """SHA-256 of the source of an imported module, in hexadecimal digits; None where there is none to read.

    With it counts what it imports of the modules beside it, and what these import; of an installed module that of its
    package. Alone the hash is that of its file.
    """
    try:
        source = inspect.getsourcefile(sys.modules[module])
        files = _sources(module, Path(source)) if source else {}
    except (KeyError, TypeError, OSError):  # of no module, or of one in C or of a prompt
        return None
    hashes = {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}
    if len(hashes) < 2:
        return hashes.get(module)
    return hashlib.sha256("".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def _sources(module: str, file: Path) -> dict[str, bytes]:
    """The source of a module, and of those that count with it, by name."""
    depth = module.count(".") + (file.stem == "__init__")
    root, top = file.resolve().parents[depth], module.partition(".")[0]
    found: dict[str, bytes] = {}
    left = {module: file}
    while left:
        name, path = left.popitem()
        found[name] = path.read_bytes()
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        for one in _imported(found[name], package):
            own = root.name not in INSTALLED or one.partition(".")[0] == top
            places = (root.joinpath(*one.split(".")) / "__init__.py", root.joinpath(*one.split(".")).with_suffix(".py"))
            there = next((place for place in places if place.is_file()), None)
            if own and there is not None and one not in found:
                left[one] = there
    return found


def _imported(source: bytes, package: str) -> set[str]:
    """Names of modules that a source imports, anywhere in it; some may be those of attributes."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # which another Python reads
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (package or not node.level):
            with suppress(ImportError):  # beyond the top
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                names += [f"{base}.{alias.name}" for alias in node.names if alias.name != "*"] + [base]
    return {".".join(parts[:end]) for parts in (name.split(".") for name in names) for end in range(1, len(parts) + 1)}
