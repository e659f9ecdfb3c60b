"""Modules that skip work at random: a gated residual connection, and drop-path."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from .branch import Branch, call_with_one_row, keep_in_ddp_graph, output_dtype, refuse_collectives
from .draw import MODES, RESCALES, Rows, check_choice, check_probability, count_rows, draw_batch, draw_rows
from .eager import EAGER_DEVICES, call_eagerly, for_any_batch
from .functional import add_residual, drop_path, is_transformed, relu_once
from .recompute import save_instead
from .rows import add_rows, select_rows, take_rows
from .stochastic_gate import EVAL_SCALE, StochasticGate

__all__ = ["DropPath", "StochasticResidual"]

torch.fx.wrap("drop_path")  # one node of an FX graph, which would freeze its draw

ALL: Rows = (slice(0, None),)  # the gate of a batch that survives whole


class StochasticResidual(StochasticGate):
    """Residual connection whose branch is left out at random (Huang et al., arXiv:1603.09382, eq. 2 and 5).

    In training ``identity + g * branch(x)``. A dropped branch is not called: no batch-norm statistics, no gradients,
    no memory. In evaluation ``identity + s * branch(x)``, with ``s = survival_prob`` for ``rescale="eval"``, else 1.

    Args:
        survival_prob: chance in ``[0, 1]`` that the branch, or a row of it, is kept.
        mode: ``"batch"`` draws one gate a forward pass; ``"row"`` an independent gate for each row; ``"subset"``
            a cyclic window of rows whose size is ``survival_prob * N`` rounded at random, to a multiple of 8 where
            ``N >= 64``; it is for shuffled batches, not for places with a meaning, such as two views in two halves. In
            the last two only the surviving rows enter the branch. Gates come from the default CPU generator; none is
            drawn at ``survival_prob`` 0 or 1.
        rescale: where the expectation is matched. ``"eval"``: branch times ``survival_prob`` in evaluation, as in the
            paper. ``"train"``: surviving branch divided by ``survival_prob`` in training. ``"none"``: neither.
        sync_gates: see :class:`StochasticGate`.
        inplace: add into the branch's output and keep its dtype, as torchvision's blocks do. Only for a branch that
            ends in an operation which autograd lets be overwritten, such as batch norm.
        may_alias: return ``identity`` itself, instead of a copy, where every row is dropped. Only for callers that
            write nothing into it.

    Raises:
        TypeError: ``survival_prob`` is no number.
        ValueError: ``survival_prob`` outside ``[0, 1]`` or nan, unknown ``mode`` or ``rescale``.
    """

    def __init__(
        self,
        survival_prob: float = 1.0,
        mode: str = "batch",
        rescale: str = "eval",
        *,
        sync_gates: bool = False,
        inplace: bool = False,
        may_alias: bool = False,
    ) -> None:
        super().__init__(survival_prob, sync_gates)
        self.mode = mode
        self.rescale = rescale
        self.inplace = inplace
        self.may_alias = may_alias

    @property
    def mode(self) -> str:
        """``"batch"``, ``"row"`` or ``"subset"``."""
        return self._mode

    @mode.setter
    def mode(self, value: str) -> None:
        self._mode = check_choice("mode", value, MODES)

    @property
    def rescale(self) -> str:
        """``"eval"``, ``"train"`` or ``"none"``."""
        return self._rescale

    @rescale.setter
    def rescale(self, value: str) -> None:
        self._rescale = check_choice("rescale", value, RESCALES)

    @property
    def eval_scale(self) -> float:
        """Factor of the branch in evaluation."""
        return self.survival_prob if self.rescale == "eval" else 1.0

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Note the scale beside the weights, where PyTorch notes versions: what loads the file keeps the function."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]][EVAL_SCALE] = self.eval_scale

    def has_dropped_all(self) -> bool:
        """Return whether the last forward pass left the branch out for every row."""
        return self.last_share == 0.0 if self.draws() else not self.training and self.eval_scale == 0.0

    def forward(self, branch: Branch, x: Tensor, identity: Tensor) -> Tensor:
        """Return ``identity`` plus the gated branch.

        Args:
            branch: function of ``x``, called at most once, that does not overwrite it. Under DistributedDataParallel it
                must be a module, a method of one, or a closure over modules: a dropped branch contributes zeros to
                their gradients.
            x: input of the branch, ``(N, ...)``.
            identity: output of the shortcut, same shape as the branch's output.

        Raises:
            RuntimeError: a training model is exported or traced, a SyncBatchNorm would wait for ranks with other
                gates, or a branch overwrites the rows that it shares with the shortcut.
        """
        if self.draws():
            if isinstance(x, torch.fx.Proxy):
                raise RuntimeError(
                    "an FX graph would freeze the gates of a StochasticResidual: keep the module that holds it whole, "
                    'as in create_feature_extractor(..., tracer_kwargs={"leaf_modules": [Block]})'
                )
            return self.forward_gated(branch, x, identity)
        scale = 1.0 if self.training else self.eval_scale
        if scale == 0.0:
            return self._without_branch(branch, identity)
        return add_residual(identity, branch(x), scale, self.inplace)

    # Gates are Python control flow. The compiler does not trace into it, but compiles the branch that it calls: one
    # graph a branch, not one for each pattern of gates. Everything else called from here is disabled for it.
    @torch.compiler.disable(recursive=False)
    def forward_gated(self, branch: Branch, x: Tensor, identity: Tensor, relu: bool = False) -> Tensor:
        """What :meth:`forward` returns where gates are drawn; with ``relu``, the ReLU of it."""
        survivors = self._draw(branch, len(x))
        if survivors is None:
            return self._drop(branch, identity, relu)
        rows, version = x, None
        memory: AbstractContextManager[Any] = nullcontext()
        if survivors is not ALL:
            if isinstance(survivors, Tensor):
                survivors = survivors.to(x.device, non_blocking=True)
            rows, shared = select_rows(x, survivors)
            if identity is x:
                identity = shared
                version = None if rows.is_inference() or is_transformed() else rows._version
            if torch.is_grad_enabled() and not is_transformed():
                memory = save_instead(x, rows, partial(take_rows, rows=survivors))
        with memory:
            if len(rows) == 1:
                out = call_with_one_row(branch, rows)
            elif rows.device.type in EAGER_DEVICES:
                out = call_eagerly(branch, rows)
            else:
                out = branch(for_any_batch(rows))
        if version is not None and rows._version != version:
            raise RuntimeError(
                "the branch overwrites its input, of which it sees some rows only, so that the shortcut would not see "
                "the change: let its first layer work with inplace=False"
            )
        return self._add(identity, out, survivors, relu)

    @torch.compiler.disable
    def _draw(self, branch: Branch, batch: int) -> Rows | None:
        """Surviving rows: None for no row, ``ALL`` for every row."""
        if not self.sync_gates:
            refuse_collectives(branch)
        count, rows = 0, ALL
        if self.survival_prob > 0.0 and self.mode == "batch":
            count = batch if draw_batch(self.survival_prob, self.sync_gates) else 0
        elif self.survival_prob > 0.0:
            rows = draw_rows(self.mode, self.survival_prob, batch, self.sync_gates)
            count = count_rows(rows)
        self.last_share = count / max(batch, 1)
        return None if count == 0 else ALL if count == batch else rows

    @torch.compiler.disable
    def _add(self, identity: Tensor, branch: Tensor, rows: Rows, relu: bool) -> Tensor:
        scale = 1.0 / self.survival_prob if self.rescale == "train" else 1.0
        if rows is ALL:
            out = add_residual(identity, branch, scale, self.inplace)
            return out.relu_() if relu else out
        return add_rows(identity, branch, rows, scale, branch.dtype if self.inplace else None, relu)

    @torch.compiler.disable
    def _drop(self, branch: Branch, identity: Tensor, relu: bool) -> Tensor:
        out = keep_in_ddp_graph(self._without_branch(branch, identity), branch, alias=relu)
        return relu_once(out) if relu else out

    def _without_branch(self, branch: Branch, identity: Tensor) -> Tensor:
        dtype = output_dtype(identity, branch) if self.inplace else identity.dtype
        return identity.to(dtype, copy=not self.may_alias)

    def extra_repr(self) -> str:
        return f"survival_prob={self.survival_prob:.4g}, mode={self.mode!r}, rescale={self.rescale!r}"


class DropPath(nn.Module):
    """Zero random rows in training (Larsson et al., arXiv:1605.07648); see :func:`drop_path`.

    Args:
        p: chance in ``[0, 1]`` that a row is *kept*.
        inplace: overwrite the input.

    Raises:
        TypeError: ``p`` is no number.
        ValueError: ``p`` outside ``[0, 1]`` or nan.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return ``drop_path(x, p)`` in training, ``x`` in evaluation; ``x`` is ``(N, ...)``."""
        return drop_path(x, self.p, self.inplace) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}, inplace={self.inplace}"
