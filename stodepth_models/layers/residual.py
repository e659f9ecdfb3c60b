"""A residual connection whose branch is left out at random, and the base class of all gates.

The path of ``x`` through a gate reads from top to bottom: :meth:`StochasticResidual.forward` decides whether gates are
drawn, ``_forward_gated`` draws them, takes the surviving rows, calls the branch on them, and adds its output.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ..checks import check_choice, check_flag, check_probability
from .branch import Branch, call_on_single_row, refuse_collectives, zero_gradients_for_ddp
from .draw import MODES, RESCALES, Rows, count_rows, draw_batch, draw_rows, has_other_ranks
from .rows import (
    add_residual,
    add_rows,
    is_transformed,
    save_input_instead_of_rows,
    select_rows,
    take_rows,
    version_of,
)

EVAL_SCALE = "eval_scale"  # entry of a gate in the metadata of a state dict
SCHEDULED_SCALE = "scheduled_scale"  # and what the schedule of the model, or of the one it was copied from, set last

ALL_ROWS: Rows = (slice(0, None),)  # the gate of a batch that survives whole


class ScheduledProb:
    """The survival probability that a schedule set last on a gate. Copies of the gate share it.

    The average of a model's weights is made of a copy, whose own probability stays that of the moment of the copy. The
    weights are trained with the scheduled one.

    Args:
        value: survival probability in ``[0, 1]``.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def __deepcopy__(self, memo: Any) -> "ScheduledProb":
        return self


class StochasticGate(nn.Module):
    """Base of every module with a survival probability: what :func:`survival_probs` and the schedules look for.

    Args:
        survival_prob: chance in ``[0, 1]`` that the gated work is done in a training step.
        sync_gates: all ranks of the default process group take the gates of rank 0. Needed where the gated work
            holds collectives (SyncBatchNorm, FSDP units), which would wait for ranks that skip it, and under FSDP2
            wherever its units are: it reduces the gradients that a rank has, position by position. Gates of rows
            need batches of one size on all ranks.

    Attributes:
        last_share: share in ``[0, 1]`` of the rows that survived when gates were last drawn.

    Raises:
        TypeError: ``survival_prob`` is no number, or ``sync_gates`` no bool.
        ValueError: ``survival_prob`` outside ``[0, 1]`` or nan.
    """

    scheduled: ScheduledProb | None = None

    def __init__(self, survival_prob: float = 1.0, sync_gates: bool = False) -> None:
        super().__init__()
        self.survival_prob = survival_prob
        self.sync_gates = check_flag("sync_gates", sync_gates)
        self.last_share = 1.0

    @property
    def survival_prob(self) -> float:
        """Chance in ``[0, 1]`` that the gated work is done in a training step."""
        return self._survival_prob

    @survival_prob.setter
    def survival_prob(self, value: float) -> None:
        self._survival_prob = check_probability("survival_prob", value)
        # Compiled code guards on this flag, so that a schedule that moves the probability does not recompile.
        self._always_survives = self._survival_prob == 1.0

    def draws(self) -> bool:
        """Return whether a forward pass draws gates now: in training, at a survival probability below 1.

        Raises:
            RuntimeError: the pass is being exported, which would freeze the gates.
        """
        if not self.training or self._always_survives:
            return False
        if _is_exported():
            raise RuntimeError("a training model would be exported with its gates frozen: call model.eval() first")
        return True

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` calls first; the language that it compiles has no gates."""
        raise RuntimeError(
            "torch.jit.script cannot compile gates: call to_torchvision(model), or remove_stochastic_depth(model), "
            "and script the plain model"
        )


def _is_exported() -> bool:
    """Whether the pass is recorded as a program, which would freeze what is drawn."""
    # The flag, not `is_exporting()`, which the compiler of torch 2.11 takes for true in any compilation.
    return getattr(torch.compiler, "_is_exporting_flag", False) or torch.jit.is_tracing()


def gates_of(model: nn.Module) -> list[StochasticGate]:
    """Return the gates of a model, in forward order: that of ``model.modules()``.

    Raises:
        TypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    return [module for module in model.modules() if isinstance(module, StochasticGate)]


def draws_anywhere(model: nn.Module) -> bool:
    """Return whether a forward pass draws a gate."""
    # The compiler guards on each gate that is read here. The last one mostly survives least: it draws first.
    return any(gate.draws() for gate in reversed(gates_of(model)))


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

    Raises:
        TypeError: ``survival_prob`` is no number.
        ValueError: ``survival_prob`` outside ``[0, 1]`` or nan, unknown ``mode`` or ``rescale``.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> residual = sdm.StochasticResidual(survival_prob=0.5, mode="batch", rescale="eval").eval()
        >>> x = torch.ones(1, 2)
        >>> residual(torch.nn.Identity(), x, x)  # identity + 0.5 * branch(x)
        tensor([[1.5000, 1.5000]])
    """

    # Set by blocks that own the gate. `_inplace`: add into the branch's output and keep its dtype, see add_residual.
    # `_may_alias`: return `identity` itself, instead of a copy, where every row is dropped. `_branch_first`: the sum
    # has the memory format of the branch, as `branch + identity` has where the two differ.
    _inplace = False
    _may_alias = False
    _branch_first = False

    def __init__(
        self, survival_prob: float = 1.0, mode: str = "batch", rescale: str = "eval", *, sync_gates: bool = False
    ) -> None:
        super().__init__(survival_prob, sync_gates)
        self.mode = mode
        self.rescale = rescale

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of version 0.1.0 have the two settings under public names.
        for name in ("inplace", "may_alias"):
            if name in state:
                state[f"_{name}"] = state.pop(name)
        super().__setstate__(state)

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
        if self.rescale == "eval":
            return self.survival_prob
        return 1.0

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save the scale beside the weights, where PyTorch saves versions: what loads the file keeps the function."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not hasattr(destination, "_metadata"):
            return  # a caller's own dict
        metadata = destination._metadata[prefix[:-1]]
        metadata[EVAL_SCALE] = self.eval_scale
        if self.scheduled is not None and self.rescale == "eval":
            metadata[SCHEDULED_SCALE] = self.scheduled.value

    def forward(self, branch: Branch, x: Tensor, identity: Tensor, *args: Tensor) -> Tensor:
        """Return ``identity`` plus the gated branch.

        Args:
            branch: function of ``x`` and ``args``, called at most once, that does not overwrite them. Under
                DistributedDataParallel it must be a module, a method of one, or a closure over modules: a dropped
                branch contributes zeros to their gradients.
            x: input of the branch, ``(N, ...)``.
            identity: output of the shortcut, same shape as the branch's output.
            *args: further inputs of the branch with a row for each sample, ``(N, ...)``: those of the surviving rows
                enter the branch.

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
            return self._forward_gated(branch, x, identity, *args)
        scale = 1.0
        if not self.training:
            scale = self.eval_scale
        if scale == 0.0:
            return self._without_branch(identity)
        if self._branch_first and scale == 1.0:
            return branch(x, *args) + identity
        return add_residual(identity, branch(x, *args), scale, self._inplace)

    # Gates are Python control flow, and compiled branches trained 1.14 to 1.23 times slower than eager ones: the
    # compiler leaves every pass that draws gates alone.
    @torch.compiler.disable
    def _forward_gated(self, branch: Branch, x: Tensor, identity: Tensor, *args: Tensor) -> Tensor:
        if not self.sync_gates and has_other_ranks():
            refuse_collectives(branch)
        survivors = self._draw(len(x))
        if survivors is None:
            return zero_gradients_for_ddp(self._without_branch(identity), branch, self._may_alias)
        scale = 1.0
        if self.rescale == "train":
            scale = 1.0 / self.survival_prob
        if survivors is ALL_ROWS:
            return add_residual(identity, call_branch(branch, x, *args), scale, self._inplace)
        if isinstance(survivors, Tensor):
            survivors = survivors.to(x.device, non_blocking=True)
        rows, shared = select_rows(x, survivors)
        version = None
        if identity is x:
            # The shortcut is the input: one backward pass adds the gradients of both, in one buffer.
            identity = shared
            version = version_of(rows)
        taken = [take_rows(arg, survivors) for arg in args]
        with self._saving_input(x, rows, survivors):
            out = call_branch(branch, rows, *taken)
        if version is not None and version_of(rows) != version:
            # The shortcut would see the change where rows share its memory, and not where they are a copy.
            raise RuntimeError(
                "the branch overwrites its input, of which it sees some rows only, so that the shortcut would not see "
                "the change: let its first layer work with inplace=False"
            )
        return add_rows(identity, out, survivors, scale, self._inplace)

    def _draw(self, batch: int) -> Rows | None:
        """Draw the surviving rows: None for no row, ``ALL_ROWS`` for every row."""
        try:
            count, rows = self._draw_rows(batch)
        except RuntimeError as error:
            if not is_transformed():
                raise
            raise RuntimeError(
                f"a {type(self).__name__} in training draws gates, and all calls of a vmap need the same ones: "
                "vmap(..., randomness='same'), or model.eval()"
            ) from error
        self.last_share = count / max(batch, 1)
        if count == 0:
            return None
        if count == batch:
            return ALL_ROWS  # whatever the mode: nothing has to be taken out and added back
        return rows

    def _draw_rows(self, batch: int) -> tuple[int, Rows]:
        """Return the number of surviving rows, and the rows themselves."""
        if self.survival_prob == 0.0:
            return 0, ALL_ROWS
        if self.mode == "batch":
            survives = draw_batch(self.survival_prob, self.sync_gates)
            return batch * survives, ALL_ROWS
        rows = draw_rows(self.mode, self.survival_prob, batch, self.sync_gates)
        return count_rows(rows), rows

    def _saving_input(self, x: Tensor, rows: Tensor, survivors: Rows) -> AbstractContextManager[Any]:
        """Context in which autograd saves ``x`` in place of its surviving rows."""
        if not torch.is_grad_enabled() or is_transformed():
            return nullcontext()
        return save_input_instead_of_rows(x, rows, partial(take_rows, rows=survivors))

    def _without_branch(self, identity: Tensor) -> Tensor:
        if self._may_alias:
            return identity
        return identity.clone()

    def extra_repr(self) -> str:
        return f"survival_prob={self.survival_prob:.4g}, mode={self.mode!r}, rescale={self.rescale!r}"


def call_branch(branch: Branch, x: Tensor, *args: Tensor) -> Tensor:
    """Call the branch on ``x``, ``(N, ...)``, and take care of its batch norms where there is a single row."""
    if len(x) == 1:
        # A batch norm on a 1x1 map would see a single value a channel, and raise.
        return call_on_single_row(branch, x, *args)
    return branch(x, *args)
