"""The model card that is saved beside a model, as the Hugging Face Hub shows it."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TASK = "image-classification"

_CARD = """---
{data}
---

# {builder}

A ResNet with stochastic depth ([arXiv:1603.09382](https://arxiv.org/abs/1603.09382)) for {num_classes} classes.
In training a residual branch is left out at random (mode `{mode}`, rescale `{rescale}`); the chance to keep it is, from
the first block to the last, {survival_probs}.

```python
from stodepth_models import {kind}

model = {kind}.from_pretrained("path/or/repository")
```
"""


def write_card(
    config: Mapping[str, Any],
    kind: str,
    template: Mapping[str, Any],
    license: str | None,
    dataset: str | None,
    metrics: Mapping[str, float],
) -> ModelCard:
    """Return the card of a model.

    Args:
        config: configuration of the model.
        kind: name of its class.
        template: what the cards of all models of this package say.
        license: identifier of the licence.
        dataset: name of the data set that the metrics were measured on.
        metrics: figures by their names on the Hub.

    Raises:
        ValueError: ``metrics`` without ``dataset``.
    """
    if metrics and dataset is None:
        raise ValueError("metrics are those of a data set: give dataset as well")
    results: list[EvalResult] = []
    for name, value in metrics.items():
        results.append(EvalResult(TASK, str(dataset), str(dataset), metric_type=name, metric_value=value))
    data: dict[str, Any] = {"license": license}
    if dataset is not None:
        data["datasets"] = [dataset]
    if results:
        # The Hub shows results under the name of a model alone.
        data |= {"model_name": config["builder"], "eval_results": results}
    text = ModelCardData(**data, **template).to_yaml()
    probs = ", ".join(f"{prob:.3g}" for prob in config["survival_probs"])
    return ModelCard(_CARD.format(**{**config, "data": text, "kind": kind, "survival_probs": probs}))
