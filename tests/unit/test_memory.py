"""Memory counted without computing, against sums that are known, and the options of `unitgain inspect`."""

import json

import pytest
import torch
from torch import nn

from unitgain.analysis.memory import peak_bytes
from unitgain.cli.main import main
from unitgain.recipes import DIGITS
from unitgain.train import Execution
from unitgain.train import estimate as module
from unitgain.train.estimate import estimate, step_on, trained_shapes

FLOAT = 4


def test_storages_count_from_when_they_are_made_until_they_are_freed():
    def make():
        x = torch.empty(1000)

        def work():
            y = x * 2  # 1000
            z = y.view(10, 100)[:5]  # a view is no memory
            z += 1  # nor is what is written in place
            w = torch.cat([y, y])  # 3000 live
            del y, z
            u = w[:1000] + 1  # 3000
            return u

        return work

    assert peak_bytes(make) == 3000 * FLOAT
    assert peak_bytes(lambda: lambda: None) == 0


def test_a_backward_pass_keeps_what_autograd_saves():
    # exp saves its output: k of them for the backward pass. Then two gradients live beside what is still saved.
    def chain(length, requires_grad):
        def make():
            x = torch.empty(1000, requires_grad=requires_grad)

            def work():
                y = x
                for _ in range(length):
                    y = y.exp()
                y.sum()

            return work

        return peak_bytes(make)

    assert chain(7, True) == 7 * 1000 * FLOAT + FLOAT
    assert chain(7, False) == 2 * 1000 * FLOAT  # no more than one and the next


def test_weights_that_are_there_before_do_not_count():
    def make():
        layer = nn.Linear(100, 100, bias=False)

        def work():
            layer(torch.empty(1, 100)).sum().backward()

        return work

    assert 100 * 100 * FLOAT < peak_bytes(make) < 100 * 100 * FLOAT + 20 * 100 * FLOAT  # the gradient, once


def test_a_pass_is_linear_in_images_and_smaller_recomputed_or_in_half_precision(tiny_recipe):
    network = tiny_recipe.network.replace(channel_mult=(1,), attn_resolutions=())
    small = tiny_recipe.replace(network=network)

    def peak(n, recompute=False, dtype="float32"):
        return peak_bytes(lambda: step_on(small.replace(precision=dtype), n, recompute, keep=False))

    four, eight, twelve = peak(4), peak(8), peak(12)
    assert twelve - eight == pytest.approx(eight - four, rel=0.02)
    assert peak(12, recompute=True) < 0.8 * twelve
    assert peak(12, dtype="bfloat16") < twelve


@pytest.mark.filterwarnings("error")
def test_passes_in_c_are_estimated_without_a_look_at_numbers(tiny_recipe):
    """Fake tensors have none; weights of a pass are made in one call, and all are there at its end."""
    numbers = FLOAT * sum(shape.numel() for shape in trained_shapes(tiny_recipe).all)
    found = {size: peak_bytes(lambda n=size: step_on(tiny_recipe, n, False, keep=True, fused=True)) for size in (1, 8)}
    assert numbers < found[1] < found[8]


def test_the_parts_of_an_estimate(monkeypatch):
    monkeypatch.setattr(module, "peak_bytes", lambda make: 1000)
    recipe = DIGITS.replace(batch=32, duration=32, snapshot_every=32)
    numbers = FLOAT * sum(shape.numel() for shape in trained_shapes(recipe).all)
    one = estimate(recipe, process=7)
    assert (one.weights, one.gradients, one.optimizer, one.averages) == (numbers, 0, 2 * numbers, 2 * numbers)
    assert (one.gathered, one.process, one.host) == (0, 7, 5 * numbers)
    assert one.total == one.tensors + one.kept + 7 == 5 * numbers + 1000 + one.kept + 7
    assert estimate(recipe, microbatch=8, process=7).gradients == numbers  # there before the second pass
    assert estimate(recipe, processes=2, process=7).gradients == numbers  # DDP's have their place
    shared = estimate(recipe, processes=2, execution=Execution(shard=True), process=7)
    assert numbers / 2 <= shared.weights < 0.51 * numbers and shared.gathered > 0
    gpu = estimate(recipe, device="cuda", execution=Execution(ema_device="cpu"))
    assert (gpu.averages, gpu.kept, gpu.process, gpu.host) == (0, 0, 0, (5 + 4) * numbers)
    with pytest.raises(ValueError, match="--microbatch 5: must divide the batch of 32 images"):
        estimate(recipe, microbatch=5)


def test_inspect_shows_the_estimate(capsys, monkeypatch):
    monkeypatch.setattr(module, "process_bytes", lambda: 2**20)
    monkeypatch.setattr(module, "peak_bytes", lambda make: 2**21)
    options = ["inspect", "digits", "--batch", "8", "--gpus", "2", "--shard", "--device", "cpu"]
    main([*options, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["process"], found["activations"]) == (2**20, 2**21) and found["gathered"] > 0
    main(options)
    said = capsys.readouterr().out
    assert "blocks gathered by FSDP2" in said and f"{found['total'] / 2**20:,.1f}" in said
    for wrong, text in (
        (["unknown", "--batch", "8"], "for recipes"),
        (["digits", "--batch", "8", "--gpus", "0"], "must be at least 1"),
        (["digits", "--batch", "0"], "--batch 0"),
        (["digits", "--batch", "30", "--gpus", "8"], "30 does not divide by 8 devices"),
        (["--configs", "edm2", "--gpus", "8"], "--gpus: the memory of training is that of one recipe"),
    ):
        with pytest.raises(SystemExit):
            main(["inspect", *wrong])
        assert text in " ".join(capsys.readouterr().err.split())


def test_inspect_needs_no_gpu_to_estimate_one(capsys):
    main(["inspect", "digits", "--gpus", "2", "--device", "cuda", "--json"])  # of the recipe's own batch
    found = json.loads(capsys.readouterr().out)
    assert found["process"] == found["kept"] == 0 < found["activations"]
    main(["inspect", "digits", "--gpus", "2", "--device", "cuda"])
    assert "memory per GPU" in capsys.readouterr().out


def test_weights_that_are_normalized_once_take_memory_for_two_passes(tiny_recipe):
    network = tiny_recipe.network.replace(
        channel_mult=(1,), attn_resolutions=(), model_channels=64, channels_per_head=64
    )
    wide = tiny_recipe.replace(network=network)
    numbers = FLOAT * sum(shape.numel() for shape in trained_shapes(wide).all)
    apart = peak_bytes(lambda: step_on(wide, 1, False, keep=False))
    once = peak_bytes(lambda: step_on(wide, 1, False, keep=True, once=True))
    # Normalized weights and the sums of their gradients at least.
    assert 1.9 * numbers < once < apart + 3 * numbers
