"""Measuring what users have: `images` on disk, `generated` ones, `references` of real ones, and the `judge` of all."""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
