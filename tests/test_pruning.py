"""Networks without some of their blocks, against the same networks of the libraries with fewer blocks."""

import copy

import pytest
import timm
import torch
import transformers as hf
from randomised import randomise_norms
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

import stodepth_models as sdm


def resnet20(**options):
    torch.manual_seed(0)
    return randomise_norms(sdm.cifar_resnet20_stodepth_lineardecay(**options)).eval()


def flops(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("block", "layers", "kept", "rest"),
    [
        (BasicBlock, [2, 3, 2, 2], [0, 1, 2, 4, 5, 7, 8], [2, 2, 1, 2]),
        (Bottleneck, [3, 2, 4, 2], [0, 2, 3, 4, 5, 8, 9, 10], [2, 2, 2, 2]),
    ],
)
def test_a_pruned_resnet_is_one_of_torchvision_with_fewer_blocks(block, layers, kept, rest):
    torch.manual_seed(0)
    model = randomise_norms(ResNet(block, layers, num_classes=5)).eval()
    names = [name for name, module in model.named_modules() if isinstance(module, block)]
    pruned = sdm.prune_depth(model, kept)
    # The weights of the blocks that stay, under the names that torchvision gives them.
    expected = ResNet(block, rest, num_classes=5).eval()
    stages = [[name for position, name in enumerate(names) if position in kept and name[5] == str(n)] for n in "1234"]
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("layer")}
    for stage in stages:
        for position, name in enumerate(stage):
            for key, value in model.get_submodule(name).state_dict().items():
                weights[f"{name[:6]}.{position}.{key}"] = value
    expected.load_state_dict(weights)
    x = torch.randn(2, 3, 64, 64)
    assert type(pruned) is ResNet
    assert torch.equal(pruned(x), expected(x))
    assert list(pruned.state_dict()) == list(expected.state_dict())
    assert pruned.pruned_depth.kept == tuple(kept)
    assert pruned.pruned_depth.left_out == tuple(name for at, name in enumerate(names) if at not in kept)
    assert len(list(model.layer1)) == layers[0]  # the model itself is as it was


def test_the_share_of_flops_is_what_pytorch_counts():
    model = resnet20(prob_0_L=(1.0, 0.5))
    x = torch.randn(4, 3, 32, 32)
    for keep in (0.9, 0.7, 0.5):
        for batches in (None, [x]):
            pruned = sdm.prune_depth(model, keep, batches)
            share = flops(pruned, x[:1]) / flops(model, x[:1])
            assert pruned.pruned_depth.flops_share == pytest.approx(share)
            assert keep - 0.12 < share <= keep  # a block has 0.116
            assert pruned.pruned_depth.time_share > 0.0


def test_blocks_that_compute_nothing_leave_first():
    model = resnet20(prob_0_L=(1.0, 0.6))
    idle = ["layer2.1", "layer1.2", "layer3.2"]
    for name in idle:
        nn.init.zeros_(model.get_submodule(name).bn2.weight)
        nn.init.zeros_(model.get_submodule(name).bn2.bias)
    batches = [torch.randn(16, 3, 32, 32), (torch.randn(16, 3, 32, 32), torch.zeros(16))]
    pruned = sdm.prune_depth(model, 0.7, batches)
    assert sorted(pruned.pruned_depth.left_out) == sorted(idle)
    kept_probs = [prob for at, prob in enumerate(sdm.survival_probs(model)) if at in pruned.pruned_depth.kept]
    assert sdm.survival_probs(pruned) == kept_probs
    sdm.recalibrate_bn(model, batches)
    with torch.no_grad():
        torch.testing.assert_close(pruned(batches[0]), model(batches[0]))


def test_a_block_that_saves_more_may_move_more():
    torch.manual_seed(0)
    stages = [nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8)) for _ in range(2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    model = nn.Sequential(stages[0], nn.AvgPool2d(4), stages[1], *head).eval()
    x = torch.randn(64, 8, 16, 16)
    # The block in front has 16 times the FLOPs, and moves the predictions more than the other one, but not that much.
    nn.init.constant_(model[2][1].bn2.weight, 0.5)
    distances = {}
    for kept in ([0, 2, 3], [0, 1, 2]):
        pruned = sdm.prune_depth(model, kept, [x])
        sdm.recalibrate_bn(whole := copy.deepcopy(model), [x])
        probs = whole(x).softmax(1)
        divergence = (probs * (whole(x).log_softmax(1) - pruned(x).log_softmax(1))).sum(1).mean().item()
        distances[pruned.pruned_depth.left_out] = divergence
    assert 1.0 < distances["0.1",] / distances["2.1",] < 16.0
    assert sdm.prune_depth(model, 0.99, [x]).pruned_depth.left_out[0] == "0.1"


def test_norms_are_estimated_at_the_new_depth():
    model = resnet20()
    batches = [torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)]
    pruned = sdm.prune_depth(model, [0, 3, 4, 5, 6, 7, 8], batches)
    estimated = pruned.layer2[0].bn1.running_mean.clone()
    sdm.recalibrate_bn(pruned, batches)
    torch.testing.assert_close(estimated, pruned.layer2[0].bn1.running_mean, rtol=0, atol=0)
    sdm.recalibrate_bn(model, batches)
    assert (estimated - model.layer2[0].bn1.running_mean).abs().max() > 1e-3


@pytest.mark.parametrize("builder", ["cifar_resnet20_stodepth_lineardecay", "resnet50_stodepth_lineardecay"])
def test_a_pruned_model_is_saved_and_loaded(builder, tmp_path):
    model = models.get_model(builder, prob_0_L=(1.0, 0.8), num_classes=4).eval()
    pruned = sdm.prune_depth(model, 0.7, input_size=(1, 3, 32, 32))
    pruned.save_pretrained(tmp_path)
    loaded = type(pruned).from_pretrained(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), pruned(x))
    assert sdm.survival_probs(loaded) == sdm.survival_probs(pruned)
    layers = [len(stage) for name, stage in loaded.named_children() if name.startswith("layer")]
    again = models.get_model(builder, weights=str(tmp_path), layers=layers)
    torch.testing.assert_close(again.eval()(x), pruned(x))


def test_a_pruned_model_goes_to_torchvision():
    model = sdm.resnet18_stodepth_lineardecay(num_classes=4).eval()
    pruned = sdm.prune_depth(model, 0.7, [torch.randn(4, 3, 32, 32)])
    plain = sdm.to_torchvision(pruned)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain(x), pruned(x))
    assert not hasattr(plain, "pruned_depth")


TIMM = {
    "vit_tiny_patch16_224": {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "beit_base_patch16_224": {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 4), "num_heads": (2, 2)},
    "convnext_atto": {"depths": (1, 1, 1, 3), "dims": (8, 8, 8, 16)},
    "regnetx_002": {},
    "tf_efficientnet_lite0": {},
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_a_model_of_timm_computes_what_it_does_where_a_block_returns_its_input(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, drop_path_rate=0.2, **TIMM[name]).eval()
    x = torch.randn(2, 3, 64, 64)
    last = sdm.apply_stochastic_depth(copy.deepcopy(model)) - 1
    pruned = sdm.prune_depth(model, range(last), input_size=x.shape)
    (left_out,) = pruned.pruned_depth.left_out
    assert pruned.pruned_depth.kept == tuple(range(last))
    expected = copy.deepcopy(model)
    expected.get_submodule(left_out).forward = lambda x, *args, **kwargs: x
    assert torch.equal(pruned(x), expected(x))
    # Masks are back with their rates, and a fresh model takes the weights.
    rates = {name: mask.drop_prob for name, mask in model.named_modules() if type(mask).__name__ == "DropPath"}
    staying = [rate for name, rate in rates.items() if not name.startswith(f"{left_out}.")]
    assert [mask.drop_prob for mask in pruned.modules() if type(mask).__name__ == "DropPath"] == staying
    assert len(staying) < len(rates)
    fresh = timm.create_model(name, num_classes=5, **TIMM[name])
    again = sdm.prune_depth(fresh, pruned.pruned_depth.kept, input_size=x.shape)
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(again.eval()(x), pruned(x))


def tiny(kind, **settings):
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(image_size=32, num_labels=5, **settings)
    return getattr(hf, f"{kind}ForImageClassification")(config).eval()


ENCODER = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8}


@pytest.mark.parametrize(
    ("model", "block_returns"),
    [
        (tiny("Dinov2", **ENCODER), lambda x, *args, **kwargs: x),
        (tiny("ConvNext", hidden_sizes=[8, 16], num_stages=2, depths=[2, 3]), lambda x, *args, **kwargs: x),
        (
            tiny("Swin", patch_size=4, embed_dim=8, num_heads=[2, 2], window_size=4, depths=[2, 3]),
            lambda x, *args, **kwargs: (x, None),
        ),
    ],
    ids=["dinov2", "convnext", "swin"],
)
def test_a_model_of_transformers_computes_what_it_does_where_blocks_return_their_input(model, block_returns):
    x = torch.randn(2, 3, 32, 32)
    pruned = sdm.prune_depth(model, 0.8, [x])
    expected = copy.deepcopy(model)
    for name in pruned.pruned_depth.left_out:
        expected.get_submodule(name).forward = block_returns
    assert torch.equal(pruned(x).logits, expected(x).logits)


class ByPosition(nn.Module):
    """Blocks that get what stands at their position in a list."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(BasicBlock(3, 3) for _ in range(3))
        self.factors = [1.0, 2.0, 3.0]

    def forward(self, x):
        for position, block in enumerate(self.blocks):
            x = block(x) * self.factors[position]
        return x.mean((2, 3))


def test_a_model_that_counts_its_blocks_is_refused():
    with pytest.raises(ValueError, match=r"ByPosition computes something else without blocks\.1 than"):
        sdm.prune_depth(ByPosition(), [0, 2], input_size=(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("error", "keep", "batches", "message"),
    [
        (ValueError, 0.0, None, r"a share of the FLOPs in \(0, 1\], or the positions of the blocks that stay, got 0"),
        (ValueError, 8, None, "got 8"),
        (ValueError, float("nan"), None, "got nan"),
        (TypeError, True, None, "got True"),
        (TypeError, "0.7", None, "got '0.7'"),
        (TypeError, [0, 1.0], None, "got .0, 1.0."),
        (ValueError, [0, 9], None, "positions from 0 to 8, each once"),
        (ValueError, [0, 0, 1], None, "positions from 0 to 8, each once"),
        (ValueError, range(1, 9), None, "keep must hold 0: layer1.0 is the first block of its stage"),
        (ValueError, [0, 1, 2, 4, 5, 6, 7, 8], None, "keep must hold 3: layer2.0 is the first"),
        (ValueError, 0.2, None, r"keep=0.2: without all 6 blocks that can be left out, 0\.30\d of the FLOPs are left"),
        (ValueError, 0.2, [torch.zeros(2, 3, 32, 32)], "without all 6 blocks"),
        (ValueError, 0.7, [], "at least one batch of two images"),
        (ValueError, 0.7, [torch.zeros(1, 3, 32, 32)], "at least one batch of two images"),
        (TypeError, 0.7, [{"x": 1}], "tensors, or tuples that begin with one, got dict"),
    ],
)
def test_what_cannot_be_left_out_is_refused(error, keep, batches, message):
    with pytest.raises(error, match=message):
        sdm.prune_depth(resnet20(), keep, batches)


def test_a_model_without_known_blocks_is_refused():
    with pytest.raises(ValueError, match="does not hold a known residual block"):
        sdm.prune_depth(nn.Sequential(nn.Conv2d(3, 3, 1)), 0.5)


def test_a_model_without_logits_has_no_predictions_to_choose_by():
    model = nn.Sequential(BasicBlock(3, 3), BasicBlock(3, 3))
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(TypeError, match=r"must return logits, \(N, K\), to choose blocks by, got \(2, 3, 8, 8\)"):
        sdm.prune_depth(model, 0.6, [x])
    assert len(sdm.prune_depth(model, 0.6, input_size=(1, 3, 8, 8))) == 1
    assert len(sdm.prune_depth(model, [0], [x])) == 1


@pytest.mark.parametrize("layers", [[2, 2], [2, 2, 0], [2, 2, 2.0], 2, [2, 2, 2, 2]])
def test_layers_are_a_whole_number_for_each_stage(layers):
    with pytest.raises(ValueError, match="layers must be the number of blocks in each of 3 stages, got"):
        sdm.cifar_resnet20_stodepth_lineardecay(layers=layers)
