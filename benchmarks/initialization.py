"""Magnitudes of activations before any training, of every config at the papers' size S, on standard normal input.

    python benchmarks/initialization.py

Needs 3 GiB of memory.
"""

import argparse
from collections.abc import Sequence

import torch

from arguments import parse
from machine import write_results
from tiny import tiny_network
from unitgain.analysis.magnitude import watch
from unitgain.arch import NetworkSpec
from unitgain.arch.configs import edm2_configs, edm2plus_configs
from unitgain.denoiser import Denoiser


def measure(spec: NetworkSpec) -> dict[str, float]:
    """Mean activation by bucket, and how far the denoiser is from c_skip x, relative to it."""
    torch.manual_seed(0)
    denoiser = Denoiser(spec).eval()
    x, label = torch.randn(1, spec.channels, spec.resolution, spec.resolution), torch.tensor([7])
    with torch.no_grad():
        with watch(denoiser) as probe:
            denoiser.network(x, torch.zeros(1), denoiser.condition(label, 1))
        off = (denoiser(x, 0.5, label) - 0.5 * x).norm() / (0.5 * x).norm()
    buckets = {bucket: values["activation_mean"] for bucket, values in probe.buckets().items()}
    return {"smallest": min(buckets.values()), "largest": max(buckets.values()), "off": off.item(), **buckets}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all and write the table."""
    args = parse(argparse.ArgumentParser(description=__doc__), arguments)
    torch.set_num_threads(1)
    specs = {f"EDM2 {name.upper()}": spec for name, spec in edm2_configs().items()}
    specs |= {f"EDM2+ {name}": spec for name, spec in edm2plus_configs().items()}
    rows = {}
    for name, spec in specs.items():
        rows[name] = measure(tiny_network(spec, 16) if args.small else spec)
        print(name, rows[name], flush=True)
    lines = [
        "# Magnitudes at initialization",
        "",
        "Every config at size S, one standard normal 64x64 image, sigma = 1 for the embedding: mean magnitude of the "
        "activations (Eq. 3) in the smallest and the largest of the eight buckets {Enc, Dec} x resolution, and the "
        "distance of the denoiser from c_skip x at sigma = 0.5, relative to c_skip x.",
        "",
        "| config | smallest bucket | largest bucket | distance from c_skip x |",
        "|---|---|---|---|",
        *(f"| {n} | {r['smallest']:.3f} | {r['largest']:.3f} | {r['off']:.3f} |" for n, r in rows.items()),
    ]
    write_results("initialization", {"configs": rows}, "\n".join(lines), folder=args.folder)


if __name__ == "__main__":
    main()
