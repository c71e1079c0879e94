"""Linear combinations of many arrays in one pass: the product that reconstruction is made of."""

from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_uint64, c_void_p

import torch
from torch import Tensor

from unitgain.native.bind import TYPES, Binding

_READ = (c_void_p, c_void_p, c_int64, c_int64)  # sources, their types, how many, values of each
_WRITTEN = (
    c_void_p,
    c_int64,
    c_void_p,
    c_int32,
    c_int64,
)  # weights, results, where they go, their type, the first value
_combine = Binding(
    "combine",
    functions={
        "combine": (c_int32, *_READ, *_WRITTEN, c_void_p, c_void_p, c_void_p),
        "combine_scratch": (c_int64, c_int64),
    },
    structs={},
)


def can_combine(dtypes: Sequence[torch.dtype]) -> bool:
    """Whether arrays of these types can be combined by C on this machine."""
    return all(dtype in TYPES for dtype in dtypes) and _combine.library is not None


class Combination:
    """`weights @ sources`, for sources that lie in memory as they are stored. Not for several threads at once.

    Args:
        weights: `[results, sources]`, float32.
        dtypes: of the sources; see `can_combine`.
        dtype: of the results, one of the same; sums are in float32, and rounded to it.
    """

    def __init__(self, weights: Tensor, dtypes: Sequence[torch.dtype], dtype: torch.dtype) -> None:
        library, rows = _combine.need(), _combine.constant("rows")
        self.results, self.sources = weights.shape
        self.dtype = dtype
        self._dtypes = (c_int32 * self.sources)(*(TYPES[dtype] for dtype in dtypes))
        padded = torch.zeros(-(-self.results // rows) * rows, self.sources, dtype=torch.float32)
        padded[: self.results] = weights
        self._weights = padded.view(-1, rows, self.sources).transpose(1, 2).contiguous()
        self._scratch = torch.empty(library.unitgain_combine_scratch(self.sources), dtype=torch.float32, device="cpu")

    def __call__(
        self, sources: Sequence[int], out: Tensor, first: int, sums: bool
    ) -> tuple[list[int], list[int], bool]:
        """Combine one run of values of each source.

        Args:
            sources: addresses of their first bytes.
            out: `[results, width]`, contiguous, of `dtype`; overwritten.
            first: number of the first value in its tensor, a multiple of 512.
            sums: also add up what was read, as `unitgain.checkpoint.tensors.checksum` does.

        Returns:
            One sum per source, or nothing; one per result; and whether all results are finite.
        """
        assert len(sources) == self.sources
        assert out.shape[0] == self.results
        assert out.dtype == self.dtype
        assert out.is_contiguous()
        of_sources = (c_uint64 * self.sources)() if sums else None
        of_results = (c_uint64 * self.results)()
        finite = _combine.need().unitgain_combine(
            (c_void_p * self.sources)(*sources),
            self._dtypes,
            self.sources,
            out.shape[1],
            self._weights.data_ptr(),
            self.results,
            out.data_ptr(),
            TYPES[self.dtype],
            first,
            of_sources,
            of_results,
            self._scratch.data_ptr(),
        )
        return list(of_sources or []), list(of_results), bool(finite)
