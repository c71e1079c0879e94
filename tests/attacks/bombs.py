"""Files that are small and describe much: none may take more memory than promised, or long.

    python tests/attacks/bombs.py

Prints, as JSON, what became of each, its size, the memory it took and the time.
"""

import json
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from robustness import reset_peak, resident
from unitgain.checkpoint.convert import convert_network
from unitgain.checkpoint.origin import Origin
from unitgain.checkpoint.records import Refused


def billion_laughs(open_, close):
    """Each level holds the one before twice."""
    levels = b"".join(open_ + b"h" + bytes([i]) + b"h" + bytes([i]) + close + b"q" + bytes([i + 1]) for i in range(200))
    return b"\x80\x04]q\x00" + levels + b"."


# By name; sizes such that each costs a second at most.
BOMBS = {
    "tuples of the one before twice": billion_laughs(b"", b"\x86"),
    "lists of the one before twice": billion_laughs(b"](", b"e"),
    "tuples in tuples": b"\x80\x04)" + b"\x85" * 300_000 + b".",
    "lists in lists": b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "dicts": b"\x80\x04(" + b"}" * 1_000_000 + b"t.",
    "sets": b"\x80\x04(" + b"\x8f" * 1_000_000 + b"t.",
    "lists": b"\x80\x04(" + b"]" * 1_000_000 + b"t.",
    "ordered dicts": b"\x80\x04ccollections\nOrderedDict\nq\x00(" + b"h\x00)R" * 300_000 + b"t.",
    "floats": b"\x80\x04(" + b"G\x00\x00\x00\x00\x00\x00\x00\x01" * 200_000 + b"t.",
    "bytes": b"\x80\x04(" + b"C\x00" * 500_000 + b"t.",
    "text": b"\x80\x04(" + b"\x8c\x01a" * 400_000 + b"t.",
    "wide text": b"\x80\x04(" + b"\x8c\x05a\xf0\x9f\x98\x80" * 200_000 + b"t.",
    "marks": b"\x80\x04" + b"(" * 1_000_000 + b".",
    "memo": b"\x80\x04N" + b"\x94" * 1_000_000 + b".",
    "memo far away": b"\x80\x04N" + b"".join(b"r" + struct.pack("<I", i << 8) for i in range(200_000)) + b".",
    "from the memo": b"\x80\x04]q\x00(" + b"h\x00" * 500_000 + b"t.",
    "nothing, often": b"\x80\x04}" + b"(u" * 2_000_000 + b".",
    "frames": b"\x80\x04" + (b"\x95" + bytes(8)) * 200_000 + b"N.",
    "protocols": b"\x80\x04" * 2_000_000 + b"N.",
    "the same bytes": b"\x80\x04B" + struct.pack("<I", 1000) + bytes(1000) + b"q\x00(" + b"h\x00" * 500_000 + b"t.",
    "huge frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"N.",
    "huge text": b"\x80\x04X" + struct.pack("<I", 2**32 - 1) + b"N.",
    "huge integer": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"N.",
    "huge place in the memo": b"\x80\x04Nr\xff\xff\xff\xff.",
    "duplicates": b"\x80\x04N" + b"2" * 1_000_000 + b".",
    "text in text": b"\x80\x04(" + b"c_codecs\nencode\n\x8c\x01a\x8c\x06latin1\x86R" * 50_000 + b"t.",
}


def main() -> None:
    """Try each."""
    here = Origin(nimg=1024, sigma_rel=0.05, recipe="bomb")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bomb.pkl"
        for name, data in {"warm": b"N.", **BOMBS}.items():
            path.write_bytes(data)
            reset_peak()
            before, began = resident(peak=False), time.perf_counter()
            try:
                convert_network(path, path.with_suffix(".safetensors"), here)
                outcome = "converted"
            except Refused as error:
                outcome = str(error).rpartition(".pkl: ")[2]
            seconds, grown = time.perf_counter() - began, resident(peak=True) - before
            results[name] = {"outcome": outcome, "bytes": len(data), "memory": grown, "seconds": round(seconds, 3)}
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
