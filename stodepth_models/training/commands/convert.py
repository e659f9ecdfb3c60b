"""Convert weights: any format that the package reads into safetensors with a configuration, or a torchvision file.

    stodepth convert resnet20-12fca82f.th converted/            # what save_pretrained writes
    stodepth convert resnet20-12fca82f.th resnet20.safetensors  # and resnet20.json beside it
    stodepth convert runs/pets resnet50.pth                     # a plain one, for torchvision

The evaluation function stays. A torchvision file holds a network of constant depth: evaluation scales are folded in.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model, get_model_weights

from ...blocks.fold import fold_rescale
from ...blocks.surgery import to_torchvision
from ...cifar import CifarResNet
from ...weights.checkpoint import Checkpoint, write_file
from ...weights.config import config_of
from ...weights.guess import guess_builder
from ...weights.hub import CONFIG, WEIGHTS
from ...weights.load import load_checkpoint
from ...weights.prefix import under_prefix
from ...weights.rebuild import rebuild
from ...weights.sources import read_checkpoint, resolve_source
from ...zoo import full_name
from ..builders import builder_of, is_name, refuse_builder, refuse_names
from ..flags import Parser
from ..model_config import LIBRARIES

PLAIN = (".pth", ".pt", ".th")


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser("convert", __doc__ or "")
    parser.add_argument(
        "paths",
        metavar="IN OUT",
        nargs="+",
        help=(
            "IN: path, folder of a run, URL, hf://org/repo[/file][@revision], or name of weights. "
            "OUT: folder, or file that ends in .safetensors, .pth, .pt or .th."
        ),
    )
    parser.add_argument("--weights", metavar="IN", help="The same as IN in the first place.")
    parser.add_argument("--model", metavar="NAME", help="Builder, where the weights do not say it.")
    parser.add_argument(
        "--model.weights_prefix", dest="prefix", metavar="PREFIX",
        help="Beginning of the names of the network in weights of several, such as encoder_q..",
    )  # fmt: skip
    options = parser.parse_words(words)
    paths = list(options.paths)
    if options.weights is not None:
        paths.insert(0, options.weights)
    if len(paths) != 2:
        parser.error(f"IN and OUT are two places, got {', '.join(paths)}")
    options.source, options.target = paths[0], Path(paths[1])
    return options


def build(checkpoint: Checkpoint, builder: str | None) -> Any:
    """Build the network that the weights belong to: the one they were saved from, or one of constant depth."""
    saved = (checkpoint.config or {}).get("builder", "")
    if saved.startswith(LIBRARIES):
        raise ValueError(
            f"{checkpoint.name} holds {saved}, and convert writes networks of this package alone; "
            "stodepth evaluate, predict and train take such weights as they are"
        )
    if saved and builder not in (None, saved):
        refuse_builder(builder, saved, checkpoint.name)
    if checkpoint.config is not None:
        model = rebuild(checkpoint.config, {})
    else:
        guess = guess_builder(checkpoint.state_dict)
        if guess is None and builder is None:
            refuse_names(checkpoint)
        options: dict[str, str] = {}
        name = builder
        if guess is not None and builder in (None, guess[0]):
            name, options = guess
        return get_model(name, prob_0_L=(1.0, 1.0), weights=checkpoint, **options).eval()
    load_checkpoint(model, checkpoint)
    model.eval()
    return model


def write(model: Any, training: dict[str, Any], target: Path) -> None:
    """Write the model, and in its configuration what a training run noted beside the weights."""
    if target.suffix in PLAIN:
        plain = model if isinstance(model, CifarResNet) else to_torchvision(model)
        fold_rescale(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(plain.state_dict(), target)
        return
    if target.suffix == ".safetensors":
        target.parent.mkdir(parents=True, exist_ok=True)
        weights, configuration = target, target.with_suffix(".json")
    elif target.suffix and not target.is_dir():
        raise ValueError(f"OUT must be a folder or end in .safetensors, {', '.join(PLAIN)}, got {target}")
    else:
        model.save_pretrained(target)
        weights, configuration = target / WEIGHTS, target / CONFIG
    config = {**config_of(model), **training}
    write_file(weights, model.state_dict(), config)
    configuration.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(words: Sequence[str]) -> None:
    """Parse, build the model of the weights, write it."""
    arguments = parse_arguments(words)
    builder = None
    if arguments.model is not None:
        builder = full_name(arguments.model)
    elif is_name(arguments.source):
        builder = builder_of(arguments.source).name
    enum = None if builder is None else get_model_weights(builder)
    source = resolve_source(arguments.source, enum, builder or "a model that is not named")
    checkpoint = read_checkpoint(source)
    if arguments.prefix is not None:
        checkpoint = under_prefix(checkpoint, arguments.prefix)
    model = build(checkpoint, builder)
    training = {key: value for key, value in (checkpoint.config or {}).items() if key == "training"}
    write(model, training, arguments.target)
    print(f"{arguments.source} -> {arguments.target}: {config_of(model)['builder']}")
