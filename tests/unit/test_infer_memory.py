"""What a prepared network holds, against the sum of its parameters, and what opening it takes."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import relative_error, trained

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from footprint import footprint
from unitgain.arch import NetworkSpec
from unitgain.arch.activation import Modulation
from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.bench.memory import in_use
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError, SnapshotHeader, write_snapshot
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser, parameter_count
from unitgain.draw.networks import open_network
from unitgain.hub import load
from unitgain.infer import Prepared, prepare
from unitgain.infer.fused import FusedDepthwise, FusedPointwise, pays_to_convolve
from unitgain.infer.layers import FoldedConv
from unitgain.layers import MPConv
from unitgain.native import can_pass
from unitgain.serial import to_dict

TINY = {
    "resolution": 8,
    "channels": 3,
    "label_dim": 5,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
    "channels_per_head": 32,
}
EDM2PLUS = edm2plus_configs()["g-bottleneck"]


def saved(denoiser: Denoiser, path, dtype: str = "float16"):
    profile = {"kind": "raw"}
    header = SnapshotHeader(
        network=denoiser.spec, sigma_data=0.5, nimg=0, profile=profile, recipe="x", encoder=to_dict(PixelEncoder())
    )
    write_snapshot(path, header, denoiser.state_dict(), dtype)
    return path


def held(prepared: Prepared) -> int:
    """Bytes of everything that a prepared network keeps."""
    total = sum(value.numel() * value.element_size() for value in prepared.parameters())
    for module in prepared.modules():
        if isinstance(module, FoldedConv) and module.packed is not None:
            total += module.packed.numel() * module.packed.element_size()
        if isinstance(module, FusedDepthwise):
            total += module.convolve._weight.numel() * 4
        if isinstance(module, FusedPointwise):
            total += module.convolve._weights.nbytes
    return total


@pytest.mark.parametrize("spec", [EDM2PLUS, edm2_configs()["g"]], ids=["EDM2+", "EDM2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_held_is_the_parameters_in_their_precision(spec, dtype):
    """Two bytes for each weight in low precision but those of the noise level, of modulations and, in C, of depthwise
    convolutions.

    Outputs of 1x1 convolutions are rounded up to what C makes at a time.
    """
    denoiser = trained(spec.replace(**TINY))
    prepared = prepare(denoiser, dtype, winograd=False)
    in_c = any(isinstance(module, FusedDepthwise) for module in prepared.modules())
    low = torch.finfo(dtype).bits // 8
    expected = 4 * 2 * denoiser.spec.widths[0]  # frequencies and phases
    for name, module in denoiser.named_modules():
        if isinstance(module, MPConv):
            depthwise, missing = module.groups > 1, 0
            if pays_to_convolve(dtype) and module.weight.shape[2:] == (1, 1):
                missing = -len(module.weight) % 64 * module.weight[0].numel()
            wide = not module.kernel and not name.endswith("embedding.label")
            wide = wide or (depthwise and in_c)
            expected += (module.weight.numel() + missing) * (4 if wide else low)
        if hasattr(module, "scale"):
            expected += 4 * len(module.linear.weight)  # its constant
    assert held(prepared) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("compile", [False, True])
def test_sums_and_skip_connections_take_as_little_as_they_can(dtype, compile):
    """bfloat16 has too few bits for sums; where float16 is taken for them, what reads them rounds them."""

    def kept(spec):
        network = prepare(trained(spec.replace(**TINY)), dtype, compile=compile).network
        return network.sums, network.skip_dtype

    if dtype != torch.bfloat16:
        assert kept(NetworkSpec(**TINY)) == kept(edm2_configs()["f"]) == (dtype, dtype)
        return
    in_c = not compile and can_pass(torch.float16)
    assert kept(NetworkSpec(**TINY)) == ((torch.float16, torch.float16) if in_c else (torch.float32, torch.bfloat16))
    scaled_later = NetworkSpec(**TINY, concat_balance=0.0)
    assert kept(scaled_later) == ((torch.float16, torch.float16) if in_c else (torch.float32, torch.float32))


def test_sums_in_float16_cost_nothing(monkeypatch):
    """Against float32's: the products of bfloat16 have eight times the error of their rounding."""
    denoiser = trained(EDM2PLUS.replace(resolution=16, channels=3, label_dim=5))
    x, label = torch.randn(4, 3, 16, 16), torch.arange(4)
    with torch.no_grad():
        exact = denoiser(x, 1.0, label)
    found = relative_error(prepare(denoiser, torch.bfloat16)(x, 1.0, label), exact)
    monkeypatch.setattr("unitgain.infer.passes.can_pass", lambda dtype: False)
    wide = prepare(denoiser, torch.bfloat16)
    assert wide.network.sums == torch.float32
    assert found < 1.1 * relative_error(wide(x, 1.0, label), exact)


@pytest.mark.parametrize("config", ["EDM2 a", "EDM2 c", "EDM2 f", "EDM2 g", "EDM2+"])
def test_a_network_prepared_from_its_file_is_the_same(tmp_path, config):
    spec = EDM2PLUS if config == "EDM2+" else edm2_configs()[config.split()[1]]
    denoiser = trained(spec.replace(**TINY))
    for dtype in ("float16", "bfloat16"):
        path = saved(denoiser, tmp_path / f"{dtype}.safetensors", dtype)
        mapped = load(path, mapped=True)
        assert {str(value.dtype) for value in mapped.parameters()} == {f"torch.{dtype}"}
        x, label = torch.randn(2, 3, 8, 8), torch.tensor([1, 4])
        for precision in (torch.float32, torch.bfloat16):
            found = prepare(mapped, precision)(x, 0.7, label)
            assert torch.equal(found, prepare(load(path), precision)(x, 0.7, label))
    before = path.read_bytes()
    opened = open_network(str(path)).denoiser
    with torch.no_grad():
        assert relative_error(opened(x, 0.7, label), load(path)(x, 0.7, label)) < 5e-6
    assert path.read_bytes() == before


def test_damage_is_noticed_in_what_is_mapped(tmp_path):
    path = saved(trained(NetworkSpec(**TINY)), tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with Snapshot(path) as snapshot, pytest.raises(SnapshotError, match="not match its checksum"):
        snapshot.denoiser(mapped=True)


@pytest.mark.skipif(not in_use(), reason="memory is not seen on this system")
def test_opening_takes_what_the_prepared_network_takes(tmp_path, monkeypatch):
    """Neither the original in float32 nor all folded weights at once: a tenth and a few layers above the result.

    What the C library keeps of freed memory differs from run to run, so it is told to keep none of large blocks.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**17))
    sizes = {"resolution": 16, "model_channels": 128, "channel_mult": (1, 3), "num_blocks": 2, "attn_resolutions": ()}
    denoiser = trained(EDM2PLUS.replace(**TINY | sizes))
    path = saved(denoiser, tmp_path / "a.safetensors")
    count = parameter_count(denoiser)
    largest = max(value.numel() for value in denoiser.parameters())
    wide = sum(module.linear.weight.numel() for module in denoiser.modules() if isinstance(module, Modulation))
    found = footprint(str(path), "bfloat16", threads=1)
    assert 2 * count < found.opening < 1.1 * 2 * (count + wide) + 4 * 4 * largest + 3e6
    assert found.opening < 4 * count
