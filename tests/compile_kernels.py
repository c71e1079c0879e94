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

from unitgain.kernels.device import depthwise  # noqa: E402

FLOATS = {"gain"}
PLAIN = {"weight_ptr", "scale_ptr", "weight_part_ptr", "scale_part_ptr"}  # float32 whatever the images are
BOTH = {"MODULATE": True, "SILU": True, "AFTER": False}
MODERN = BOTH | {"AFTER": True}  # EDM2+ modulates after the SiLU
STRIP = {"ROWS": 16, "BLOCK_W": 8, "BLOCK_C": 64}
KERNELS = (
    (depthwise.forward3, BOTH | STRIP),
    (depthwise.forward3, MODERN | STRIP),
    (depthwise.backward3, BOTH | STRIP),
    (depthwise.backward3, MODERN | STRIP),
)


def compiled(kernel, constants: dict, dtype: str, capability: int) -> bytes:
    """Machine code, with sizes that are multiples of 16, as Triton assumes where they are."""
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*fp32" if name in PLAIN else f"*{dtype}"
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
    for kernel, constants in KERNELS:
        code = compiled(kernel, constants, dtype, int(capability))
        print(f"sm_{capability} {dtype} {kernel.__name__}: {usage(code)}")
print(f"unitgain {unitgain.__version__}, Triton {triton.__version__}")
