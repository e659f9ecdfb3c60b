"""Two gloo processes: DistributedDataParallel in every mode, shared gates, and what would hang."""

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import stodepth_models as sdm
from stodepth_models.layers.draw import MODES


def _start(rank, store, check):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    try:
        check(rank)
    finally:
        dist.destroy_process_group()


def _on_two_ranks(check, tmp_path):
    mp.spawn(_start, (str(tmp_path / "store"), check), nprocs=2)


def _gathered(tensor):
    everyone = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(everyone, tensor)
    return everyone


def _log_gates(model):
    gates = []
    for module in model.modules():
        if isinstance(module, sdm.StochasticResidual):
            module.register_forward_hook(lambda _, inputs, out: gates.append(not torch.equal(inputs[2], out)))
    return gates


def _train_in_every_mode(rank):
    for mode in MODES:
        for sync_gates in (False, True):
            torch.manual_seed(0)
            model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.6, 0.3), mode=mode, sync_gates=sync_gates)
            network, gates = DistributedDataParallel(model), _log_gates(model)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            torch.manual_seed(rank)
            for _ in range(4):
                optimizer.zero_grad()
                batch = 3 if sync_gates or rank else 2
                network(torch.randn(batch, 3, 8, 8)).square().mean().backward()
                optimizer.step()
            for p in model.parameters():
                assert torch.equal(*_gathered(p.grad)), mode
                assert torch.equal(*_gathered(p.detach())), mode
            if mode == "batch":
                same = torch.equal(*_gathered(torch.tensor(gates)))
                assert same == sync_gates


def _average_gradients_over_ranks(rank):
    """A branch dropped on one rank contributes zeros there: the gradient is half of the other rank's."""
    torch.manual_seed(0)
    model = sdm.StoDepthBasicBlock(4, 4)
    alone = sdm.StoDepthBasicBlock(4, 4)
    alone.load_state_dict(model.state_dict())
    x = torch.randn(3, 4, 5, 5)
    alone(x).square().sum().backward()
    network = DistributedDataParallel(model)
    model.residual.survival_prob = float(rank)  # rank 0 drops, rank 1 keeps
    network(x).square().sum().backward()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad / 2)


def _outside_ddp_a_process_group_changes_nothing(rank):
    model = sdm.StoDepthBasicBlock(4, 4)
    model.residual.survival_prob = 0.0
    model(torch.randn(3, 4, 5, 5, requires_grad=True)).sum().backward()
    assert all(p.grad is None for p in model.parameters())


def _accumulate_under_no_sync(rank):
    torch.manual_seed(0)
    model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.6, 0.3))
    network = DistributedDataParallel(model)
    torch.manual_seed(rank)
    with network.no_sync():
        network(torch.randn(2, 3, 8, 8)).sum().backward()
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    for p in model.parameters():
        assert torch.equal(*_gathered(p.grad))


def _checkpoint_stages(rank):
    torch.manual_seed(0)
    model = sdm.cifar_resnet32_stodepth_lineardecay(prob_0_L=(0.5, 0.2), checkpoint_stages=True)
    network = DistributedDataParallel(model)
    torch.manual_seed(rank)
    for _ in range(2):
        network(torch.randn(2, 3, 8, 8)).sum().backward()
    for p in model.parameters():
        assert torch.equal(*_gathered(p.grad))


def _refuse_collectives_among_different_gates(rank):
    model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.5, 0.5))
    for block in model.layer1:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(block)
    block = model.layer1[0]
    with pytest.raises(RuntimeError, match="sync_gates=True"):
        block(torch.randn(2, 16, 4, 4))


def _refuse_fsdp_units_among_different_gates(rank):
    mesh = init_device_mesh("cpu", (2,))
    for mode in MODES:
        for sync_gates in (False, True):
            torch.manual_seed(0)
            model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.5, 0.5), mode=mode, sync_gates=sync_gates)
            block = model.layer1[0]
            fully_shard(block.conv1, mesh=mesh)  # within the branch
            x = torch.randn(4, 16, 4, 4)
            if sync_gates:
                assert block(x).shape == x.shape
            else:
                with pytest.raises(RuntimeError, match=r"an FSDP unit in a stochastic branch .*sync_gates=True"):
                    block(x)


def _frozen_batch_norms_communicate_nothing(rank):
    model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.5, 0.5))
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, torch.nn.SyncBatchNorm):
            module.eval()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert sdm.mc_predict(model, torch.randn(2, 3, 8, 8), samples=2).probs.shape == (2, 10)


def _train_a_converted_vit(rank):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=3, drop_path_rate=0.8)
    sdm.apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample")
    network = DistributedDataParallel(model)
    torch.manual_seed(rank)
    for _ in range(6):
        network.zero_grad()
        network(torch.randn(2, 3, 32, 32)).square().mean().backward()
        for parameter in model.parameters():
            assert torch.equal(*_gathered(parameter.grad))


def _all_checks(rank):
    _train_a_converted_vit(rank)
    _train_in_every_mode(rank)
    _average_gradients_over_ranks(rank)
    _outside_ddp_a_process_group_changes_nothing(rank)
    _accumulate_under_no_sync(rank)
    _checkpoint_stages(rank)
    _refuse_collectives_among_different_gates(rank)
    _refuse_fsdp_units_among_different_gates(rank)
    _frozen_batch_norms_communicate_nothing(rank)


def test_two_ranks(tmp_path):
    _on_two_ranks(_all_checks, tmp_path)
