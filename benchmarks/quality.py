"""What fast precision costs in quality: `python benchmarks/quality.py`. Figures go to `results/quality.json` and `.md`.

The network of the demo is trained on the digits, which takes a minute or two on two cores, and its best average is
sampled as it was trained and prepared in every precision, with the same seeds and the protocol of the demo. A processor
that emulates a precision takes some minutes for it, and rounds to it all the same.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from arguments import parse
from machine import write_results
from unitgain.data.digits import digits
from unitgain.demo import Classifier, DemoConfig, run_demo
from unitgain.denoiser import Denoiser
from unitgain.hub import load
from unitgain.infer import fastest_dtype, prepare
from unitgain.metrics.frechet import frechet_distance, statistics
from unitgain.sample import generate

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def images(denoiser: Denoiser, config: DemoConfig, count: int = 64) -> torch.Tensor:
    """The first images, as the network gives them."""
    return torch.cat([drawn for _, _, drawn in generate(denoiser, range(count), config.drawing().sigmas())])


def measured(denoiser: Denoiser, classifier: Classifier, config: DemoConfig) -> tuple[float, float]:
    """Frechet distance to the real digits in standardized pixels, and the share that is named as asked for."""
    pixels, right = [], 0.0
    for _, labels, drawn in generate(denoiser, range(config.images), config.drawing().sigmas(), batch=256):
        pixels.append(classifier.encoder.decode(drawn))
        right += float((classifier.names(pixels[-1]) == labels.numpy()).sum()) if labels is not None else 0.0
    real, ours = (statistics(classifier.features(each)) for each in (digits().images, torch.cat(pixels)))
    return frechet_distance(*ours, *real), right / config.images


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quality"), help="of the demo; gone on with if there")
    parser.add_argument("--images", type=int, default=1000, help="drawn in each precision")
    args = parse(parser, arguments)
    demo = DemoConfig(duration=1280, lengths=(0.1,), images=16, steps=2) if args.small else DemoConfig()
    report = run_demo(demo, args.run, quiet=True)
    if report is None:
        raise SystemExit("the training was stopped; call again to go on")
    path = Path(report["network"])
    config = DemoConfig(images=16 if args.small else args.images, steps=demo.steps)
    classifier, trained = Classifier(digits()), load(path)
    modes: dict[str, Denoiser] = {"as trained": trained}
    modes |= {name: prepare(trained, dtype) for name, dtype in DTYPES.items()}
    exact, first = measured(trained, classifier, config), images(trained, config, min(64, config.images))
    rows: list[dict[str, Any]] = []
    for name, denoiser in modes.items():
        distance, accuracy = exact if denoiser is trained else measured(denoiser, classifier, config)
        difference = (images(denoiser, config, len(first)) - first).abs()
        rows.append(
            {
                "mode": name,
                "fd": distance,
                "change": distance / exact[0] - 1,
                "accuracy": accuracy,
                "mean_difference": float(difference.mean()),
                "largest_difference": float(difference.max()),
            }
        )
        print(rows[-1], flush=True)
    settings = {"images": config.images, "steps": config.steps, "length": report["best_sigma_rel"]}
    results = {"settings": settings, "fastest": str(fastest_dtype("cpu")).removeprefix("torch."), "rows": rows}
    write_results("quality", results, page(results), folder=args.folder)
    print(page(results))


def page(results: dict[str, Any]) -> str:
    """The table as a page."""
    settings = results["settings"]
    lines = [
        "# Quality in low precision",
        "",
        f"The digits, {settings['images']} images of the same seeds, {settings['steps']} steps of Heun's method, EMA "
        f"length {settings['length']:g}; pixels have standard deviation 0.5.",
        "",
        "| network | Frechet distance | change | named right | mean difference | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        name = row["mode"] if row["mode"] == "as trained" else f"prepared, {row['mode']}"
        lines.append(
            f"| {name} | {row['fd']:.4f} | {row['change']:+.2%} | {row['accuracy']:.1%} "
            f"| {row['mean_difference']:.1e} | {row['largest_difference']:.1e} |"
        )
    lines += ["", f"The default on this machine is {results['fastest']}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
