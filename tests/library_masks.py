"""Masks with given rows in the place of a library's own, and gates that draw the same rows: one training, two ways."""

import torch
from torch import nn

from stodepth_models.layers import residual


class Draws:
    """Rows of a batch for one mask after another: all of them, none, and then some at random.

    ``never_none``: always one row at least. Optimizers with weight decay or momentum move a weight whose gradient is
    zero, as masks leave it, and not one without a gradient, as a branch leaves it that is dropped for all rows.
    """

    def __init__(self, batch, seed=0, never_none=False):
        self.batch = batch
        self.never_none = never_none
        self.count = 0
        self.generator = torch.Generator().manual_seed(seed)

    def __next__(self):
        self.count += 1
        if self.count == 1:
            return torch.arange(self.batch)
        if self.count == 2 and not self.never_none:
            return torch.arange(0)
        values = torch.rand(self.batch, generator=self.generator)
        kept = values < 0.5
        if self.never_none:
            kept |= values == values.min()
        return kept.nonzero().squeeze(1)


class GivenMask(nn.Module):
    """Keep the rows that are drawn, times the inverse of the survival probability."""

    def __init__(self, draws, drop_prob):
        super().__init__()
        self.draws = draws
        self.drop_prob = drop_prob

    def forward(self, x):
        if not self.training:
            return x
        factors = torch.zeros(len(x), dtype=x.dtype)
        factors[next(self.draws)] = 1.0 / (1.0 - self.drop_prob)
        return x * factors.view(-1, *[1] * (x.dim() - 1))


def rate_of(mask):
    return getattr(mask, "drop_prob", getattr(mask, "p", None))


def is_mask(module):
    name = type(module).__name__
    return ("DropPath" in name or name == "StochasticDepth") and bool(rate_of(module))


def give_masks(model, draws, places=None, drop_prob=0.5):
    """Replace every mask of ``model``; ``places`` names modules, by the class of their parent, that get one behind."""
    for parent in list(model.modules()):
        if not getattr(parent, "use_res_connect", getattr(parent, "apply_residual", True)):
            continue  # a block without a shortcut
        for name, child in list(parent.named_children()):
            if is_mask(child):
                setattr(parent, name, GivenMask(draws, rate_of(child)))
            elif name in (places or {}).get(type(parent).__name__, ()):
                setattr(parent, name, nn.Sequential(child, GivenMask(draws, drop_prob)))
    return model


def give_gates(monkeypatch, draws):
    """Let every gate of rows draw what comes next."""
    monkeypatch.setattr(residual, "draw_rows", lambda *_: next(draws))


def freeze_norms(model):
    """Batch norms with running statistics treat each row alone, as masks do."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def results(model, x, loss):
    """Return the loss, and its gradients of the input and of the parameters by name; zeros where there are none."""
    x = x.clone().requires_grad_()
    value = loss(model(x))
    value.backward()
    grads = {"input": x.grad, **{name: p.grad for name, p in model.named_parameters()}}
    values = {"loss": value.detach()}
    for (name, grad), of in zip(grads.items(), [x, *model.parameters()], strict=True):
        values[name] = torch.zeros_like(of) if grad is None else grad
    return values
