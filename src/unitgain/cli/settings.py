"""Settings of a run in a file of the user's, and over others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unitgain.trust import Limits, parse_yaml, read_regular

SETTINGS = Limits(max_item_bytes=2**18)  # of --config; all settings of a run take some kilobytes


def read_settings(file: str | None) -> dict[str, Any]:
    """The settings in a YAML or JSON file; none where there is no file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it holds no named settings.
    """
    if file is None:
        return {}
    settings = parse_yaml(read_regular(Path(file), SETTINGS), f"--config {file}")
    if not isinstance(settings, dict):
        raise ValueError(f"--config {file}: expected named settings, as in the config.json of a run")
    return settings


def merged(old: Any, new: Any) -> Any:
    """JSON with some values replaced; numbers that YAML takes for text, such as 1e-3, are numbers where these were."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}
    if isinstance(old, float) and isinstance(new, str):
        try:
            return float(new)
        except ValueError:
            return new
    return new
