"""The tensors that EDM2 looks at one by one (Appendix D.6, for Fig. 5b), by the names they have here."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

PAPER = "D.6"
"""Stands for all of them among the patterns of a sweep."""

_BLOCKS = {
    "enc": (
        ("64x64_block0", "affine conv0 conv1"),
        ("32x32_block0", "conv0 skip"),
        ("16x16_block0", "affine conv0"),
        ("16x16_block2", "conv0"),
        ("8x8_block0", "affine skip"),
        ("8x8_block1", "conv0"),
        ("8x8_block2", "conv0"),
    ),
    "dec": (
        ("8x8_block0", "conv0"),
        ("8x8_block2", "skip"),
        ("8x8_in0", "affine"),
        ("16x16_block0", "affine conv1 skip"),
        ("32x32_block0", "conv1 skip"),
        ("32x32_up", "affine"),
        ("64x64_block0", "conv1 skip"),
        ("64x64_block3", "skip"),
        ("64x64_up", "affine"),
    ),
}
# What configs call them: "affine.weight" and "linear.weight", "skip" and "shortcut", with or without "branch".
_PARTS = {
    "affine": "*modulation*[na][er].weight",
    "conv0": "*conv0.weight",
    "conv1": "*conv1.weight",
    "skip": "s[kh]*.weight",
}
PATTERNS = (
    *("network.enc.64x64_conv.weight", "network.embedding.label.weight", "network.embedding.[ln][ao][yi]*[0e].weight"),
    *(
        f"network.{side}.{block}.{_PARTS[part]}"
        for side, blocks in _BLOCKS.items()
        for block, parts in blocks
        for part in parts.split()
    ),
)
"""A pattern for each of the 28, the same for all configs of EDM2 on ImageNet-512."""


def paper_tensors(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a network's tensors that are among the paper's 28; a smaller network has fewer."""
    names = list(names)
    return tuple(name for pattern in PATTERNS for name in names if fnmatchcase(name, pattern))
