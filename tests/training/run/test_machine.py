"""What a run asks of its devices and processes."""

import gc
import weakref

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stodepth_models.training.run.machine import free_group_last


def test_a_process_group_is_freed_after_the_reducer_that_uses_it(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(nn.Linear(1, 1))
        free_group_last(model)
    finally:
        dist.destroy_process_group()
    freed = []
    weakref.finalize(model.reducer, freed.append, "reducer")
    weakref.finalize(model.process_group, freed.append, "process group")
    del model
    gc.collect()
    assert freed == ["reducer", "process group"]
