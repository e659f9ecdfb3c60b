"""The masked baseline computes everything and throws rows away."""

import pytest
import torch

import stodepth_models as sdm
from stodepth_models.training.config import ModelConfig
from stodepth_models.training.run.masking import mask_branches
from stodepth_models.training.run.model import build_model


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
