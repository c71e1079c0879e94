"""Post-hoc EMA in other people's training loops: `lightning`, `accelerate`, `transformers`; each needs its package."""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
