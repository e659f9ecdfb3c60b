"""Survival probabilities over a training, in the manner of ``torch.optim.lr_scheduler``."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .checks import check_probability, check_whole, holds_one_number
from .layers.residual import ScheduledProb, gates_of
from .survival import linear_decay, set_survival_probs, stochastic_gates, survival_probs

Probs = float | Sequence[float]

logger = logging.getLogger("stodepth_models")


class _Schedule:
    """What the schedules share: a model with stochastic blocks, and the probabilities that they set on it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # On the gate, so that a state dict of a copy, such as an average, holds the scheduled value, too.
        for gate in stochastic_gates(model):
            gate.scheduled = ScheduledProb(gate.survival_prob)

    def _warn_of_moving_scale(self) -> None:
        """Log that the schedule changes the function in evaluation, where the evaluation scale follows p."""
        rescales = {getattr(gate, "rescale", None) for gate in gates_of(self.model)}
        if "eval" in rescales:
            logger.warning(
                "the schedule moves the evaluation scale of %s, which follows the survival probability under "
                "rescale='eval': a copy of the model, such as an average of its weights, keeps the scale of the moment "
                "it was made; build the model with rescale='train'",
                type(self.model).__name__,
            )

    def get_last_probs(self) -> list[float]:
        """Return the probabilities set last, one for each block, in forward order."""
        return list(self._last)

    def _set(self, probs: list[float]) -> None:
        set_survival_probs(self.model, probs)
        for gate, prob in zip(gates_of(self.model), probs, strict=True):
            # A gate that surgery has made since the schedule began has no such value.
            if gate.scheduled is not None:
                gate.scheduled.value = prob
        self._last = probs


class SurvivalSchedule(_Schedule):
    """Move the survival probability of every block from ``start`` to ``end``.

    At construction the model has ``start``; after ``share * total_steps`` calls of :meth:`step`, and ever after, it has
    ``end``. With the default start, a network of constant depth becomes stochastic; Composer calls the share
    ``drop_warmup``. Weights do not change. Under ``rescale="eval"`` the evaluation scale moves along.

    Args:
        model: a model with stochastic blocks.
        total_steps: steps of the training, at least 1; a step is an optimizer step, an epoch, or whatever the caller
            counts.
        start: one probability in ``[0, 1]`` for all blocks, a pair (first block, last block) with a line between, or a
            list with one for each block, in forward order.
        end: as ``start``; None: the probabilities that the model has now.
        share: part of ``total_steps``, in ``(0, 1]``, over which the probabilities move.
        curve: maps progress, in ``(0, 1)``, to the part of the change that has been made, in ``[0, 1]``; None: a line.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a model without stochastic blocks, a value outside its range, or a list of another length.

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 0.5), rescale="train")
        >>> schedule = sdm.SurvivalSchedule(model, total_steps=4)
        >>> for _ in range(5):
        ...     print(sdm.survival_probs(model)[-1])
        ...     schedule.step()  # after optimizer.step()
        1.0
        0.875
        0.75
        0.625
        0.5
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        start: Probs = 1.0,
        end: Probs | None = None,
        *,
        share: float = 1.0,
        curve: Callable[[float], float] | None = None,
    ) -> None:
        super().__init__(model)
        own = survival_probs(model)  # before the start is set
        self.total_steps = check_whole("total_steps", total_steps, 1)
        self.share = check_probability("share", share)
        if self.share == 0.0:
            raise ValueError("share must be above 0, got 0: to set the end at once, call set_survival_probs")
        if not (curve is None or callable(curve)):
            raise TypeError(f"curve must be a function of the progress, or None, got {curve!r}")
        self.curve = curve
        self.start = _one_each("start", start, len(own))
        self.end = own
        if end is not None:
            self.end = _one_each("end", end, len(own))
        if self.start != self.end:
            self._warn_of_moving_scale()
        self.steps = 0
        self._set(self._probs())

    def step(self) -> None:
        """Count one step and set the model's probabilities."""
        self.steps += 1
        self._set(self._probs())

    def state_dict(self) -> dict[str, Any]:
        """Return all but the model and the curve."""
        return {
            "steps": self.steps,
            "total_steps": self.total_steps,
            "share": self.share,
            "start": self.start,
            "end": self.end,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state and set the model's probabilities to it.

        Raises:
            ValueError: the state is that of a model with another number of blocks.
        """
        blocks = len(state_dict["start"])
        if blocks != len(self.start):
            raise ValueError(f"state_dict must be of a schedule of {len(self.start)} blocks, got one of {blocks}")
        self.steps = state_dict["steps"]
        self.total_steps = state_dict["total_steps"]
        self.share = state_dict["share"]
        self.start = list(state_dict["start"])
        self.end = list(state_dict["end"])
        self._set(self._probs())

    def _probs(self) -> list[float]:
        done = self._done()
        pairs = zip(self.start, self.end, strict=True)
        return [(1.0 - done) * start + done * end for start, end in pairs]

    def _done(self) -> float:
        """Part of the change that has been made, in ``[0, 1]``."""
        progress = self.steps / (self.share * self.total_steps)
        if progress >= 1.0:
            return 1.0
        # The curve is called between the ends only: `start` and `end` hold whatever it returns there.
        if self.steps == 0 or self.curve is None:
            return progress
        done = float(self.curve(progress))
        return check_probability(f"curve({progress:g})", done)


class StochasticDepthProbabilitySchedulerLinear(_Schedule):
    """One survival probability for all blocks, from epoch to epoch.

    Call :meth:`step` before each epoch; epoch e, from 0, has ``torch.linspace(start, final, max_epochs)[e]``, and
    whatever follows the last one keeps the final probability.

    Args:
        stoch_depth_probability: survival probability in ``[0, 1]`` of epoch 0.
        final_stoch_depth_probability: survival probability in ``[0, 1]`` of the last epoch.
        cur_epoch: epoch that the next call of :meth:`step` begins.
        max_epochs: number of epochs, at least 1.
        model: a model with stochastic blocks. It has the probability of ``cur_epoch`` from now on.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value outside its range, or a model without stochastic blocks.

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay(rescale="train")
        >>> scheduler = sdm.StochasticDepthProbabilitySchedulerLinear(1.0, 0.5, max_epochs=3, model=model)
        >>> for epoch in range(3):
        ...     scheduler.step()
        ...     print(epoch, sdm.survival_probs(model)[0])
        0 1.0
        1 0.75
        2 0.5
    """

    def __init__(
        self,
        stoch_depth_probability: float = 1.0,
        final_stoch_depth_probability: float = 0.5,
        cur_epoch: int = 0,
        max_epochs: int | None = None,
        model: nn.Module | None = None,
    ) -> None:
        first = check_probability("stoch_depth_probability", stoch_depth_probability)
        last = check_probability("final_stoch_depth_probability", final_stoch_depth_probability)
        super().__init__(model)  # type: ignore[arg-type]  # None is refused there
        self.cur_epoch = check_whole("cur_epoch", cur_epoch, 0)
        epochs = check_whole("max_epochs", max_epochs, 1)
        self.schedule = torch.linspace(first, last, epochs).tolist()
        if first != last:
            self._warn_of_moving_scale()
        self._set_epoch_probs(self.cur_epoch)

    def step(self) -> None:
        """Set the probability of the epoch that begins."""
        self._set_epoch_probs(self.cur_epoch)
        self.cur_epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the coming epoch, the epoch whose probability the model has, and the probabilities of all epochs."""
        return {"cur_epoch": self.cur_epoch, "set_epoch": self._set_epoch, "schedule": list(self.schedule)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, and set the model's probability to that of the epoch it was saved in."""
        self.cur_epoch = state_dict["cur_epoch"]
        self.schedule = list(state_dict["schedule"])
        self._set_epoch_probs(state_dict["set_epoch"])

    def _set_epoch_probs(self, epoch: int) -> None:
        # Saved beside the coming epoch: a state that is loaded brings back what the model had, not what comes next.
        self._set_epoch = epoch
        prob = self.schedule[min(epoch, len(self.schedule) - 1)]
        # torch.linspace rounds: its values can lie outside [0, 1] by one unit in the last place.
        clipped = min(1.0, max(0.0, prob))
        self._set([clipped] * len(gates_of(self.model)))


def _one_each(name: str, probs: Probs, count: int) -> list[float]:
    """Return one probability for each of ``count`` blocks."""
    if holds_one_number(probs) or isinstance(probs, str) or not isinstance(probs, Iterable):
        return [check_probability(name, probs)] * count
    values = [check_probability(name, value) for value in probs]
    if len(values) == 2:
        # A single block has the second value under linear_decay, too.
        return linear_decay(count, values[0], values[1])
    if len(values) != count:
        raise ValueError(
            f"{name} must hold a pair, or one probability for each of the {count} blocks, got {len(values)}"
        )
    return values
