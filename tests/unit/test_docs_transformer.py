"""The Python of docs/transformer.md runs as it stands, with fewer steps."""

from pathlib import Path

import torch
from blocks import run_page


def test_the_page_trains_averages_and_draws(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    shorter = {"STEPS, BATCH = 600, 64": "STEPS, BATCH = 120, 32", "range(40)": "range(20)"}
    names = run_page("docs/transformer.md", call, shorter={**shorter, "sigma_grid(18)": "sigma_grid(6)"})
    assert names["pixels"].shape == (20, 1, 8, 8) and Path("transformer.png").exists()
    weights = [parameter for name, parameter in names["denoiser"].named_parameters() if name.endswith("weight")]
    assert all(torch.isfinite(weight).all() for weight in weights)
    live = names["trained"]
    names["project_weights"](live)
    for weight in weights:  # on their spheres, after the projection
        magnitude = weight.flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(magnitude, torch.ones_like(magnitude), atol=1e-3, rtol=0)
