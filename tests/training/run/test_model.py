"""The model of a run and its loss, against torch's own; the masked baseline."""

import dataclasses
import itertools
import json
import math

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy

import stodepth_models as sdm
from stodepth_models.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.run import train as engine
from stodepth_models.training.run.folder import RunFolder
from stodepth_models.training.run.metrics import Figures
from stodepth_models.training.run.model import build_model, check_model, mask_branches
from stodepth_models.training.run.signals import StopRequest
from stodepth_models.training.run.train import train
from stodepth_models.training.run.trainer import Trainer
from stodepth_models.weights.checkpoint import read_file


def masked_model(p_last):
    config = ModelConfig(prob_0_L=(p_last, p_last), mode="row", rescale="train", masked=True)
    torch.manual_seed(0)
    return build_model(config, 10)


def test_rows_are_computed_then_zeroed_or_scaled():
    model, seen = masked_model(0.5), []
    model.layer3[2].conv2.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    model.layer3[2].bn2.register_forward_hook(lambda module, inputs, out: seen.append(out.detach().clone()))
    model(torch.randn(64, 3, 8, 8))
    rows, out = seen
    assert rows == 64
    zeroed = (out.flatten(1) == 0).all(1)
    assert 16 < zeroed.sum() < 48
    alive = out[~zeroed].transpose(0, 1).flatten(1)
    assert alive.std(1).mean() == pytest.approx(2.0, abs=0.2)  # normalised to 1, divided by 0.5


def test_evaluation_and_names_are_those_of_constant_depth():
    model, x = masked_model(0.5).eval(), torch.randn(2, 3, 8, 8)
    twin = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0)).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(x), twin(x))


def test_each_block_has_its_own_probability():
    model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0))
    mask_branches(model, [1.0] * 8 + [0.0])
    outputs = []
    for name in ("layer3.1", "layer3.2"):
        model.get_submodule(name).bn2.register_forward_hook(lambda m, i, out: outputs.append(out.abs().sum().item()))
    model(torch.randn(4, 3, 8, 8))
    assert outputs[0] > 0 == outputs[1]


def test_what_masks_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"add model\.mode=row model\.rescale=train"):
        ModelConfig(masked=True)
    with pytest.raises(ValueError, match=r"model\.masked=true follows no schedule"):
        ModelConfig(masked=True, mode="row", rescale="train", ramp_epochs=2)
    with pytest.raises(ValueError, match=r"leave out model\.sync_gates and model\.sync_batchnorm"):
        ModelConfig(masked=True, mode="row", rescale="train", sync_gates=True)


def test_weights_of_several_networks_are_chosen_by_their_prefix(tmp_path):
    torch.manual_seed(0)
    networks = [sdm.cifar_resnet20_stodepth_lineardecay(num_classes=4) for _ in range(2)]
    torch.save({"student": networks[0].state_dict(), "teacher": networks[1].state_dict()}, tmp_path / "both.pth")
    config = ModelConfig(weights=str(tmp_path / "both.pth"))
    with pytest.raises(ValueError, match=r"2 networks that fit, .* or --model\.weights_prefix student\."):
        build_model(config, 4)
    for prefix, network in zip(("student.", "teacher."), networks, strict=True):
        chosen = dataclasses.replace(config, weights_prefix=prefix)
        # A training gives the number of classes, an evaluation what it has read.
        for model in (build_model(chosen, 4), build_model(chosen, None, read_file(tmp_path / "both.pth", "both.pth"))):
            assert torch.equal(model.fc.weight, network.fc.weight)
    check_model(dataclasses.replace(config, weights_prefix="teacher."))
    with pytest.raises(ValueError, match=r"model\.weights_prefix is a part of model\.weights: give both"):
        ModelConfig(weights_prefix="teacher.")


def settings(output, **changes):
    """A run of constant depth, with epochs of 5 steps, on 8x8 pictures."""
    data = DataConfig(name="fake", fake_images=80, fake_classes=4, image_size=8)
    config = TrainConfig(model=ModelConfig(prob_0_L=(1.0, 1.0)), data=data, epochs=3, batch_size=16, output=output,
                         trackers=(), progress=False, stop_at_chance=0, cpu=True)  # fmt: skip
    return dataclasses.replace(config, **changes)


def test_a_step_goes_down_the_smoothed_loss(tmp_path):
    config = settings(tmp_path, optim=OptimConfig(lr=0.05, schedule="constant", label_smoothing=0.3, weight_decay=0.01))
    data = load_data(config.data)
    trainer = Trainer(config, Accelerator(cpu=True), data, RunFolder(tmp_path), StopRequest())
    model = trainer.learner.bare.train()
    batch = next(trainer.batches.epoch(0))
    ((images, labels),) = batch.parts
    loss = cross_entropy(model(images), labels, label_smoothing=0.3)
    (gradient,) = torch.autograd.grad(loss, model.fc.weight)
    before = model.fc.weight.detach().clone()
    trainer.pending = []
    trainer._step(batch)
    assert trainer.pending[0][0].item() == pytest.approx(16 * loss.item(), rel=1e-5)
    # Nesterov's first step: the gradient with its decay, and momentum times the same.
    expected = before - 0.05 * (1 + config.optim.momentum) * (gradient + 0.01 * before)
    torch.testing.assert_close(model.fc.weight.detach(), expected)


def test_the_epoch_of_the_highest_validation_accuracy_is_kept(tmp_path, monkeypatch):
    accuracies = itertools.chain((0.2, 0.5, 0.3), itertools.repeat(0.4))

    def evaluate(*_):
        return Figures(nll=1.0, top1=next(accuracies), top5=1.0, ece=0.0, count=16)

    monkeypatch.setattr(engine, "evaluate", evaluate)
    assert train(settings(tmp_path)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["best_epoch"], result["best_valid_error"]) == (2, pytest.approx(50.0))
    kept = {name: read_file(tmp_path / f"{name}.safetensors", name) for name in ("best", "last")}
    assert {name: file.config["training"]["epoch"] for name, file in kept.items()} == {"best": 2, "last": 3}
    assert not torch.equal(kept["best"].state_dict["fc.weight"], kept["last"].state_dict["fc.weight"])
    assert math.isclose(result["test_error_last"], 60.0)
