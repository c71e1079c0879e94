"""Measuring what users have: `images` on disk, `generated` images, and the `protocol` over either; `references`."""
