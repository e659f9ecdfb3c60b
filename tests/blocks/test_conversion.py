"""Plain torchvision models out of ours."""

import pickle

import pytest
import torch
import torchvision
from randomised import randomise_norms
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

import stodepth_models as sdm


@pytest.mark.parametrize(
    ("builder", "block", "options"),
    [
        (sdm.resnet18_stodepth_lineardecay, BasicBlock, {"prob_0_L": (0.8, 0.3)}),
        (sdm.resnet50_stodepth_lineardecay, Bottleneck, {"replace_stride_with_dilation": [False, True, True]}),
        (sdm.resnext50_32x4d_stodepth_lineardecay, Bottleneck, {"rescale": "train", "num_classes": 5}),
    ],
)
def test_a_plain_resnet_with_the_same_outputs(builder, block, options):
    torch.manual_seed(0)
    model, x = randomise_norms(builder(**options)).eval(), torch.randn(2, 3, 64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = sdm.to_torchvision(model)
    assert type(plain) is torchvision.models.ResNet
    assert {type(m) for m in plain.modules() if isinstance(m, (BasicBlock, Bottleneck))} == {block}
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert list(plain.state_dict()) == list(before)
    assert vars(plain).keys() == vars(torchvision.models.resnet18()).keys()
    assert not [m for m in plain.modules() if type(m).__module__.startswith("stodepth_models")]
    assert b"stodepth" not in pickle.dumps(plain)


def test_a_plain_resnet_loads_into_torchvision():
    model = sdm.resnet18_stodepth_lineardecay()
    plain, twin = sdm.to_torchvision(model).eval(), torchvision.models.resnet18().eval()
    twin.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(twin(x), plain(x))


def test_surgery_on_a_torchvision_model_can_be_undone_by_conversion():
    torch.manual_seed(0)
    model, x = randomise_norms(torchvision.models.resnet18()).eval(), torch.randn(2, 3, 64, 64)
    sdm.apply_stochastic_depth(model, drop_rate=0.5, rescale="eval")
    plain = sdm.to_torchvision(model)
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-5)
    assert b"stodepth" not in pickle.dumps(plain)


def test_what_users_note_on_a_model_stays():
    for model in (torchvision.models.resnet18(), sdm.resnet18_stodepth_lineardecay(checkpoint_stages=True)):
        model.class_names = ["cat", "dog"]
        sdm.apply_stochastic_depth(model)
        plain = sdm.to_torchvision(model)
        assert plain.class_names == ["cat", "dog"]
        assert vars(plain).keys() - vars(torchvision.models.resnet18()).keys() == {"class_names"}
    model.categories = ["cat", "dog"]  # as weights do
    assert not hasattr(sdm.to_torchvision(model), "categories")


class Tempered(sdm.StoDepthResNet):
    def forward(self, x):
        return super().forward(x) / 0.07


class Halved(sdm.StoDepthBasicBlock):
    def branch(self, x):
        return super().branch(x) / 2


def test_what_torchvision_has_no_class_for_is_refused():
    with pytest.raises(ValueError, match=r"torchvision has no CifarResNet: use fold_rescale\(model\)"):
        sdm.to_torchvision(sdm.cifar_resnet20_stodepth_lineardecay())
    with pytest.raises(TypeError, match="must be a torchvision ResNet with stochastic depth, got Linear"):
        sdm.to_torchvision(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="got its subclass Tempered, whose own code would be lost"):
        sdm.to_torchvision(Tempered(sdm.StoDepthBasicBlock, [1, 1, 1, 1]))
    derived = sdm.resnet18_stodepth_lineardecay()
    derived.layer1[0].__class__ = Halved
    with pytest.raises(ValueError, match=r"layer1\.0 is a Halved, made from StoDepthBasicBlock"):
        sdm.to_torchvision(derived)
    for name in ("layer2.1", ""):
        replaced = sdm.resnet18_stodepth_lineardecay()
        replaced.get_submodule(name).forward = lambda x: x
        with pytest.raises(ValueError, match=rf"{name or 'the model'} has a forward method of its own"):
            sdm.to_torchvision(replaced)
    wrapped = torchvision.models.resnet18()
    wrapped.layer1[0] = sdm.StochasticDepthBlock(wrapped.layer1[0], 0.5)
    with pytest.raises(ValueError, match=r"gates must sit in torchvision's residual blocks, got others at layer1\.0"):
        sdm.to_torchvision(wrapped)
