"""Predictions over the sub-networks that gates draw in evaluation."""

import math

import pytest
import torch
from torch import Tensor, nn

from stodepth_models import DropPath, StochasticResidual, cifar_resnet20_stodepth_lineardecay, mc_predict


class Gated(nn.Module):
    """Logits ``x`` or, where the branch survives, ``-x``: every number is known."""

    def __init__(self, survival_prob: float = 0.5, mode: str = "batch") -> None:
        super().__init__()
        self.residual = StochasticResidual(survival_prob, mode, rescale="none")

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(lambda rows: -2.0 * rows, x, x)


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
def test_mean_entropy_and_mutual_information_of_two_certain_sub_networks(mode):
    torch.manual_seed(0)
    x = torch.tensor([[100.0, -100.0]]).repeat(3, 1)
    result = mc_predict(Gated(0.5, mode), x, samples=400)
    assert (result.probs - 0.5).abs().max() < 4 * math.sqrt(0.25 / 400)
    torch.testing.assert_close(result.entropy, torch.full((3,), math.log(2)), rtol=0, atol=0.03)
    torch.testing.assert_close(result.mutual_information, result.entropy)  # each sub-network alone is sure


def test_sub_networks_that_agree_share_no_information():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    result = mc_predict(Gated(), x, samples=10)
    torch.testing.assert_close(result.entropy, torch.full((2,), math.log(2)))
    torch.testing.assert_close(result.mutual_information, torch.zeros(2), rtol=0, atol=1e-6)


def test_a_mean_over_samples_is_that_of_the_forward_passes():
    torch.manual_seed(0)
    model, x = cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.8, 0.2)).eval(), torch.randn(2, 3, 8, 8)
    torch.manual_seed(1)
    result = mc_predict(model, x, 5)
    for module in model.modules():
        if isinstance(module, StochasticResidual):
            module.training = True
    torch.manual_seed(1)
    with torch.no_grad():
        probs = torch.stack([model(x).softmax(1) for _ in range(5)])
    entropies = -(probs * probs.log()).sum(2)
    torch.testing.assert_close(result.probs, probs.mean(0))
    torch.testing.assert_close(result.entropy, -(probs.mean(0) * probs.mean(0).log()).sum(1))
    torch.testing.assert_close(result.mutual_information, result.entropy - entropies.mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["row", "subset"])
def test_inference_mode_gives_the_same_prediction(mode):
    model, x = cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.6, 0.5), mode=mode), torch.randn(4, 3, 8, 8)
    torch.manual_seed(0)
    expected = mc_predict(model, x, samples=3)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert torch.equal(mc_predict(model, x, samples=3).probs, expected.probs)


def test_seeds_reproduce_and_nothing_but_the_gates_is_random_or_written():
    model = nn.Sequential(cifar_resnet20_stodepth_lineardecay(), nn.Dropout(0.9)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x, results = torch.randn(2, 3, 8, 8, requires_grad=True), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(mc_predict(model, x, samples=4))
    assert all(torch.equal(first, second) for first, second in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0].probs, results[2].probs)
    assert not results[0].probs.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model[0].eval()
    constant = nn.Sequential(cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0)), nn.Dropout(0.9))
    result = mc_predict(constant, x, samples=3)
    torch.testing.assert_close(result.probs, constant.eval()(x).softmax(1))
    assert result.mutual_information.max() < 1e-6


def test_modes_are_restored_even_after_an_error():
    model = cifar_resnet20_stodepth_lineardecay().train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    mc_predict(model, torch.randn(2, 3, 8, 8), samples=2)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError, match="channels"):
        mc_predict(model, torch.randn(2, 1, 8, 8))
    assert [module.training for module in model.modules()] == modes


def test_drop_paths_are_random_too_and_maps_of_classes_are_predicted():
    torch.manual_seed(0)
    result = mc_predict(DropPath(0.5), torch.tensor([[3.0, -3.0]]).view(1, 2, 1, 1).repeat(4, 1, 5, 6), samples=8)
    assert result.probs.shape == (4, 2, 5, 6)
    assert result.entropy.shape == result.mutual_information.shape == (4, 5, 6)
    assert result.mutual_information.min() > 0


def test_arguments_are_checked():
    model, x = Gated(), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="model must have stochastic blocks, got Linear without any"):
        mc_predict(nn.Linear(2, 2), x)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        mc_predict(model, x, samples=0)
    with pytest.raises(TypeError, match=r"samples must be a whole number, got 2\.5"):
        mc_predict(model, x, samples=2.5)

    class Mapped(Gated):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": super().forward(x)}

    with pytest.raises(TypeError, match="model must return a tensor of logits, got dict"):
        mc_predict(Mapped(), x)
