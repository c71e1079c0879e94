"""Compile every kernel for GPUs that need not be there: `compile_kernels.py 80:fp16 90:bf16 90:fp32`.

Prints registers and spills of each; fails where one does not compile, or where importing the package imports Triton.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import unitgain
import unitgain.kernels

assert "triton" not in sys.modules, "importing the package has imported Triton"

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from unitgain.kernels.device import depthwise, norm, pointwise  # noqa: E402

FLOATS = {"gain", "eps", "limit", "of_a", "of_b"}
PLAIN = {"weight_ptr", "scale_ptr", "part_ptr", "weight_part_ptr", "scale_part_ptr"}  # float32 whatever the images are
BOTH = {"MODULATE": True, "SILU": True, "AFTER": False}
MODERN = BOTH | {"AFTER": True}  # EDM2+ modulates after the SiLU
TILE = {"BLOCK_P": 32, "BLOCK_C": 64}
STRIP = {"ROWS": 16, "BLOCK_W": 8, "BLOCK_C": 64}
KERNELS = (
    (pointwise.activate_forward, BOTH | TILE),
    (pointwise.activate_backward, BOTH | TILE),
    (pointwise.sum_forward, {"CLAMP": True, "BLOCK": 2048}),
    (pointwise.sum_backward, {"CLAMP": True, "BLOCK": 2048}),
    (norm.norm_forward, {"BLOCK_P": 8, "BLOCK_C": 256}),
    (norm.norm_backward, {"BLOCK_P": 8, "BLOCK_C": 256}),
    (depthwise.forward3, BOTH | STRIP),
    (depthwise.forward3, MODERN | STRIP),
    (depthwise.backward3, BOTH | STRIP),
    (depthwise.backward3, MODERN | STRIP),
    (depthwise.forward, {"K": 7} | TILE),
    (depthwise.backward, {"K": 7} | TILE),
)
WIDE = (  # with a main path in float32: what is read, or written, so
    (pointwise.activate_forward, BOTH | TILE, {"x_ptr"}),
    (pointwise.sum_forward, {"CLAMP": True, "BLOCK": 2048}, {"a_ptr", "y_ptr"}),
    (norm.norm_forward, {"BLOCK_P": 8, "BLOCK_C": 256}, {"y_ptr"}),
    (depthwise.forward3, BOTH | STRIP, {"x_ptr"}),
)


def compiled(kernel, constants: dict, dtype: str, capability: int, wide: set = frozenset()) -> bytes:
    """Machine code, with sizes that are multiples of 16, as Triton assumes where they are."""
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*fp32" if name in PLAIN | wide else f"*{dtype}"
        else:
            signature[name] = "fp32" if name in FLOATS else "i32"
        if signature[name].startswith("*") or signature[name] == "i32":
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()}, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def usage(code: bytes) -> str:
    """Registers of a kernel, and what did not fit into them."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    words = dict(word.split(":", 1) for word in said.stdout.split() if word.count(":") == 1)
    spills = "no spills" if words["STACK"] == words["LOCAL"] == "0" else "spills"
    return f"{words['REG']} registers, {spills}"


for target in sys.argv[1:]:
    capability, dtype = target.split(":")
    for kernel, constants, *wide in (*KERNELS, *WIDE):
        code = compiled(kernel, constants, dtype, int(capability), *wide)
        also = f" with {', '.join(sorted(wide[0]))} in fp32" if wide else ""
        print(f"sm_{capability} {dtype} {kernel.__name__}{also}: {usage(code)}")
print(f"unitgain {unitgain.__version__}, Triton {triton.__version__}")
