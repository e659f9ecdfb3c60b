"""Models that travel: ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``, with a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError
from torchvision.models import get_model_builder

from .checkpoints import read_file, write_file
from .errors import CheckpointError, DownloadError
from .hints import builder_names
from .recipe import Recorded, describe
from .survival import set_survival_probs
from .weights import load_checkpoint

__all__ = ["HubModel", "rebuild"]

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# What a configuration says beside the keyword arguments of its builder.
BESIDE_ARGUMENTS = ("builder", "survival_probs", "dtype", "callables", "categories", "torch")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

Model = TypeVar("Model", bound="HubModel")


class HubModel(
    Recorded,
    ModelHubMixin,
    library_name="stodepth_models",
    pipeline_tag="image-classification",
    tags=["stochastic-depth", "resnet", "arxiv:1603.09382"],
):
    """Base of the models: huggingface_hub's ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    ``save_pretrained(folder)`` writes ``model.safetensors`` with the configuration in its header, the same
    ``config.json``, and a model card. ``from_pretrained(folder or "org/repo", **overrides)`` builds the same model, in
    evaluation mode; ``overrides`` are keyword arguments of its builder, and change no evaluation output.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        config = describe(self)
        _check_rebuilds(self, config, {} if self.recipe is None else self.recipe.callables)
        write_file(save_directory / WEIGHTS, self.state_dict(), config)
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls: type[Model],
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        config: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Model:
        path = Path(model_id, WEIGHTS)
        if not Path(model_id).is_dir():
            try:
                path = Path(
                    hf_hub_download(
                        model_id,
                        WEIGHTS,
                        revision=revision,
                        cache_dir=cache_dir,
                        force_download=force_download,
                        local_files_only=local_files_only,
                        token=token,
                    )
                )
            except (OSError, HFValidationError) as error:
                raise DownloadError(f"{model_id} cannot be fetched: {type(error).__name__}: {error}") from error
        checkpoint = read_file(path, str(path))
        config = config if config and "builder" in config else checkpoint.config
        if config is None:
            raise CheckpointError(f"{model_id} was not saved by save_pretrained: build a model and use load_pretrained")
        model = rebuild(config, overrides)
        if not isinstance(model, cls):
            raise ValueError(f"{model_id} holds a {type(model).__name__}, use {type(model).__name__}.from_pretrained")
        load_checkpoint(model, checkpoint)
        return model.eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card that ``save_pretrained`` writes as ``README.md``."""
        data, config = self._hub_mixin_info.model_card_data, describe(self)
        return ModelCard(_CARD.format(data=data.to_yaml(), kind=type(self).__name__, **config))


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


def rebuild(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Build the model that a configuration describes, without its weights.

    Args:
        config: what :func:`describe` returned.
        overrides: keyword arguments of the builder that take the place of the configuration's.

    Raises:
        CheckpointError: the configuration is damaged, or names no builder of this package.
        ValueError: an override is missing or not allowed.
    """
    name = config["builder"]
    if name not in builder_names():
        raise CheckpointError(f"the configuration names no builder of this package, got {name!r}")
    missing = [key for key in config.get("callables", ()) if key not in overrides]
    if missing:
        raise ValueError(f"the model was built with its own {', '.join(missing)}: give it to from_pretrained again")
    given = [key for key in ("weights", "pretrained") if key in overrides]
    if given:
        raise ValueError(f"from_pretrained loads the saved weights, got {', '.join(given)} as well")
    arguments = {key: value for key, value in config.items() if key not in BESIDE_ARGUMENTS}
    if "mult_flag" in overrides:
        del arguments["rescale"]
    model = get_model_builder(name)(**{**arguments, **overrides})
    if not {"prob_0_L", "depth_rule"} & {*overrides}:
        set_survival_probs(model, config["survival_probs"])
    return model.to(DTYPES.get(config.get("dtype", ""), torch.float32))


def _check_rebuilds(model: HubModel, config: Mapping[str, Any], callables: Mapping[str, Any]) -> None:
    """Refuse to save what could not be loaded, such as a model whose layers were replaced after it was built."""
    with torch.device("meta"):
        twin = rebuild(config, callables)
    ours, theirs = ({key: value.shape for key, value in m.state_dict().items()} for m in (model, twin))
    changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if changed:
        raise ValueError(
            f"{config['builder']} was changed after it was built, from_pretrained could not rebuild it; "
            f"{len(changed)} weights differ: {', '.join(changed[:10])}"
        )
