"""Names of a package that are imported when they are asked for: settings can be read without what carries them out."""

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any


def offer(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: what it imports `if TYPE_CHECKING`, and submodules by their own name.

    `import torch` takes a second or two. A package that offers its names so is imported without that, and whoever asks
    for a name gets it all the same. The names are read where type checkers find them, as lazy_loader does (SPEC 1);
    imported `as` themselves, these know that they are offered.

    Args:
        package: `__name__` of the package. No function has the name of a submodule: importing that would hide it.
    """

    @cache
    def offered() -> dict[str, str]:
        """By name, the module that it comes from."""
        tree = ast.parse(pkgutil.get_data(package, "__init__.py") or b"")
        imports = [line for node in tree.body if isinstance(node, ast.If) for line in node.body]
        return {
            one.name: line.module or "" for line in imports if isinstance(line, ast.ImportFrom) for one in line.names
        }

    def find(name: str) -> Any:
        if name == "__all__":
            return sorted(offered())
        module = offered().get(name, package)
        if module != package:
            return getattr(importlib.import_module(module), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted(offered())
