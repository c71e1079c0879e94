"""Names of a package that are imported when they are asked for: settings can be read without what carries them out."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any


def offer(package: str, names: Mapping[str, str] | None = None) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: names of other modules, and submodules by their own name.

    `import torch` takes a second or two. A package that offers its names so is imported without that, and whoever asks
    for a name gets it all the same.

    Args:
        package: `__name__` of the package.
        names: by module, what it offers of that, with spaces between; submodules are in the package itself. No function
            has the name of a submodule: importing that would hide it.
    """
    offered = {name: module for module, listed in (names or {}).items() for name in listed.split()}

    def find(name: str) -> Any:
        if offered.get(name, package) != package:
            return getattr(importlib.import_module(offered[name]), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted(offered)
