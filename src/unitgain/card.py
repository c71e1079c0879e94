"""Model cards: what a snapshot says of itself, as a page with the metadata of the Hugging Face Hub in front."""

import html
import re
from collections.abc import Mapping
from typing import Any

from unitgain.checkpoint.snapshot import SnapshotHeader
from unitgain.classes import shown_name
from unitgain.ema import length_text
from unitgain.recipes import RECIPES
from unitgain.size import show_size
from unitgain.text import one_line

LICENSES = {"CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0"}  # as the Hub writes them


def model_card(
    header: SnapshotHeader,
    parameters: int,
    dtype: str,
    *,
    metrics: Mapping[str, float] | None = None,
    repo_id: str | None = None,
) -> str:
    """A model card from what a snapshot says of itself: Markdown with the Hub's metadata in front.

    Args:
        header: of the snapshot.
        parameters: of the network.
        dtype: of the parameters in the file.
        metrics: measured results by name.
        repo_id: "org/name"; "PATH" stands in the example without it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    known: dict[str, Any] = {"library_name": "unitgain", "tags": ["diffusion", "edm2", "unitgain"]}
    known["pipeline_tag"] = "unconditional-image-generation"
    name = one_line(repo_id.rpartition("/")[2] if repo_id else header.recipe)
    data = one_line(header.data or "unknown")
    if header.license is not None:
        known |= _license(header.license)
    if metrics:
        known["model_name"] = name
        known["eval_results"] = [
            EvalResult(
                task_type="unconditional-image-generation",
                dataset_type=data.lower(),
                dataset_name=data,
                metric_type=one_line(metric.lower()),
                metric_name=one_line(metric),
                metric_value=float(value),
            )
            for metric, value in metrics.items()
        ]
    front = ModelCardData(**known).to_yaml()
    rows = _facts(header, parameters, dtype) | {metric: f"{value:g}" for metric, value in (metrics or {}).items()}
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    return _CARD.format(front=front, name=_cell(name), table=table, what=repo_id or "PATH", call=_call(header))


_CARD = """---
{front}
---

# {name}

A magnitude-preserving diffusion model, averaged over its training, as a snapshot of unitgain. The file
says all of this itself and holds nothing that executes.

| | |
|---|---|
{table}

```python
import unitgain
from unitgain.sample import generate, sigma_grid

denoiser = unitgain.load("{what}")
for seeds, labels, images in {call}:
    ...
```
"""


def _call(header: SnapshotHeader) -> str:
    name = (header.classes or ("",))[0]
    plain = name if re.fullmatch(r"[\w -]{1,40}", name) and (header.classes or ()).count(name) == 1 else None
    label = f', label="{plain}"' if plain is not None else ", label=0" if header.network.label_dim else ""
    return f"generate(denoiser, range(16), sigma_grid(32){label})"


def _facts(header: SnapshotHeader, parameters: int, dtype: str) -> dict[str, str]:
    spec = header.network
    kind = header.profile["kind"]
    average = {
        "power": f"power function, sigma_rel {length_text(header.profile.get('sigma_rel', 0))}",
        "exponential": f"exponential, half-life {header.profile.get('half_life', 0):,.0f} images",
        "uniform": "the plain mean of the weights over a time",
        "unknown": "of a length that is not known",
    }.get(kind, "none: the weights of the last step")
    facts = {
        "recipe": header.recipe,
        "images seen": f"{header.nimg:,}" if header.nimg else "not known",
        "weight average": average,
        "trained on": header.data or "not recorded",
        "network": f"{spec.channels}x{show_size(spec.size)}, {parameters:,} parameters in {dtype}",
        "classes": str(spec.label_dim) if spec.label_dim else "none" if spec.conditions else "none, unconditional",
        "sigma_data": f"{header.sigma_data:g}",
    }
    if spec.conditions:
        facts["conditions"] = ", ".join(one.summary for one in spec.conditions)
    if header.encoder.get("kind") == "latents":
        facts["sees"] = f"latents of {header.encoder.get('vae')}"
    else:
        facts["sees"] = header.encoder.get("kind", "pixels")
    if header.license is not None:
        facts["license"] = header.license
    if header.classes is not None:
        names = ", ".join(map(shown_name, header.classes[:20]))
        facts["class names"] = names + (f" and {len(header.classes) - 20} more" if len(header.classes) > 20 else "")
    recipe = RECIPES.get(header.recipe)
    if recipe is not None and recipe.duration == header.nimg and recipe.network == spec and header.sigma_rel:
        for score in recipe.scores:
            if score.sigma_rel == header.sigma_rel and not score.guide:
                facts[f"{score.metric} published for this recipe"] = f"{score.value:g} (not measured on this file)"
    return facts


def _license(text: str) -> dict[str, str]:
    if text in LICENSES:
        return {"license": LICENSES[text]}
    if re.fullmatch(r"[a-z0-9.-]+", text):
        return {"license": text}
    return {"license": "other", "license_name": one_line(text)}


def _cell(text: str) -> str:
    """Text that stays within a cell of a table, and is no Markdown or HTML."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(one_line(re.sub(r"\s+", " ", text)), quote=False))
