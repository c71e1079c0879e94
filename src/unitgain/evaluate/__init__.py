"""Measuring what users have: `images` on disk, `generated` images, and the `protocol` over either; `references`."""

from unitgain.lazy import offer

__getattr__, __dir__ = offer(__name__)
