"""Buckets that magnitudes are gathered in, {Enc, Dec} x resolution (EDM2, Appendix A.6), and what is known of each."""

import re

QUANTITIES = ("activation_max", "activation_mean", "weight_max", "weight_mean")
"""What is known of each bucket."""

SIDES = "[0-9]{1,9}(?:x[0-9]{1,9}){0,2}"
"""A level in the name of a block or bucket, as a regular expression: "64x64"."""


def bucket_of(name: str) -> str | None:
    """Bucket of a layer from its name, "Enc 64x64" or "Dec 8x8"; None outside the blocks."""
    match = re.search(rf"(?:^|\.)(enc|dec)\.({SIDES})_", name)
    return f"{match[1].capitalize()} {match[2]}" if match else None


def resolution_of(bucket: str) -> int | None:
    """The longest side in the name of a bucket, as `bucket_of` makes them; None for any other text."""
    match = re.fullmatch(rf"(?:Enc|Dec) ({SIDES})", bucket)
    return max(map(int, match[1].split("x"))) if match else None
