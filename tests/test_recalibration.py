"""Batch-norm statistics, against the mean over batches."""

import copy
import re

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from stodepth_models import cifar_resnet20_stodepth_lineardecay, recalibrate_bn


def test_recalibration_is_the_mean_over_batches_at_full_depth():
    torch.manual_seed(0)
    model = cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.5, 0.1)).train()
    model.layer1[0].eval()
    batches = [torch.rand(4, 3, 8, 8) for _ in range(3)]
    before = torch.get_rng_state()
    recalibrate_bn(model, [batches[0], (batches[1], torch.zeros(4)), [batches[2]]])
    assert torch.equal(torch.get_rng_state(), before)
    stem = torch.stack([model.conv1(batch).mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, stem)
    assert model.layer3[2].bn2.num_batches_tracked == 3
    assert model.bn1.momentum == 0.1
    assert model.layer3.training
    assert not model.layer1[0].training
    first = copy.deepcopy(model.state_dict())
    recalibrate_bn(model, batches)
    assert all(torch.equal(first[key], value) for key, value in model.state_dict().items())


def test_recalibration_that_fails_changes_nothing():
    model = cifar_resnet20_stodepth_lineardecay()
    model(torch.rand(2, 3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="channels"):
        recalibrate_bn(model, [torch.rand(2, 3, 8, 8), torch.rand(2, 4, 8, 8)])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.bn1.momentum == 0.1


def test_recalibration_without_batches_changes_nothing():
    model = cifar_resnet20_stodepth_lineardecay()
    model(torch.rand(2, 3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="batches must hold at least one batch that norms can use, got none"):
        recalibrate_bn(model, [])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_norm_that_no_batch_reaches_keeps_its_statistics():
    model = cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0))
    model(torch.rand(4, 3, 8, 8))
    model.layer3[2].residual.survival_prob = 0.0  # scaled by 0 in evaluation, so it is not called
    before = copy.deepcopy(model.layer3[2].bn2.state_dict())
    stem = model.bn1.running_mean.clone()
    recalibrate_bn(model, [torch.rand(4, 3, 8, 8)])
    assert all(torch.equal(before[key], value) for key, value in model.layer3[2].bn2.state_dict().items())
    assert not torch.equal(model.bn1.running_mean, stem)


def test_batches_that_hold_no_tensor_are_named():
    with pytest.raises(TypeError, match="tuples that begin with one, got dict"):
        recalibrate_bn(cifar_resnet20_stodepth_lineardecay(), [{"x": torch.rand(2, 3, 8, 8)}])
    norm = torch.nn.BatchNorm2d(3, affine=False)
    recalibrate_bn(norm, [torch.ones(2, 3, 8, 8)])  # without a parameter
    assert torch.equal(norm.running_mean, torch.ones(3))


def test_a_batch_of_one_image_is_passed_over_and_said(caplog):
    torch.manual_seed(0)
    model, twin = cifar_resnet20_stodepth_lineardecay(), cifar_resnet20_stodepth_lineardecay()
    twin.load_state_dict(model.state_dict())
    batches = [torch.rand(4, 3, 4, 4), torch.rand(4, 3, 4, 4)]  # the last stage is a 1x1 map
    recalibrate_bn(twin, batches)
    with caplog.at_level("WARNING", logger="stodepth_models"):
        recalibrate_bn(model, [batches[0], torch.rand(1, 3, 4, 4), batches[1], torch.rand(1, 3, 4, 4)])
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())
    assert len(caplog.messages) == 1
    assert "passed over 2 batches of one image" in caplog.messages[0]
    with pytest.raises(ValueError, match="got 1 of one image"):
        recalibrate_bn(model, [torch.rand(1, 3, 4, 4)])
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())
    recalibrate_bn(model, [torch.rand(1, 3, 16, 16)])  # one image with more than one value a channel counts
    assert model.bn1.num_batches_tracked == 1


def test_evaluation_says_once_that_statistics_were_never_fed(caplog):
    model = AveragedModel(cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0)))
    model.module.layer2[1].residual.survival_prob = 1e-9
    batches = [torch.rand(4, 3, 8, 8) for _ in range(2)]
    with caplog.at_level("WARNING", logger="stodepth_models"):
        model.eval()  # no norm has seen a batch: an untrained model
        model.train()
        update_bn(batches, model)
        model.eval()
        model.train()
        model.eval()
    assert len(caplog.messages) == 1
    assert re.search(r"^2 batch norms of CifarResNet .* first layer2\.1\.bn1: call recalibrate_bn", caplog.messages[0])
    caplog.clear()
    recalibrate_bn(model, batches)
    assert caplog.messages == []
    assert model.module.layer2[1].bn2.num_batches_tracked == 2
