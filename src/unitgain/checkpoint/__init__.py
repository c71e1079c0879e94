"""What is kept on disk: snapshots (`snapshot`), training state (`state`), official files (`nvidia`, `convert`)."""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
