"""Survival probabilities that move over training, in the manner of ``torch.optim.lr_scheduler``."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .layers.draw import check_probability
from .survival import linear_decay, set_survival_probs, survival_probs

__all__ = ["StochasticDepthProbabilitySchedulerLinear", "SurvivalSchedule"]

Probs = float | Sequence[float]


class SurvivalSchedule:
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
        curve: from progress, in ``(0, 1)``, to the part of the way that is done, in ``[0, 1]``; None: a line.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a model without stochastic blocks, a value outside its range, or a list of another length.
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
        own = survival_probs(model)
        if not own:
            raise ValueError(f"model must have stochastic blocks, got {type(model).__name__} without any")
        _whole("total_steps", total_steps, 1)
        self.share = _probability("share", share)
        if self.share == 0.0:
            raise ValueError("share must be above 0: without a way to go, set_survival_probs sets the end at once")
        if not (curve is None or callable(curve)):
            raise TypeError(f"curve must be a function of the progress, or None, got {curve!r}")
        self.model = model
        self.total_steps = total_steps
        self.curve = curve
        self.start = _one_each("start", start, len(own))
        self.end = own if end is None else _one_each("end", end, len(own))
        self.steps = 0
        self._set()

    def step(self) -> None:
        """Count one step and set the model's probabilities."""
        self.steps += 1
        self._set()

    def get_last_probs(self) -> list[float]:
        """Return the probabilities set last, one for each block, in forward order."""
        return list(self._last)

    def state_dict(self) -> dict[str, Any]:
        """Return all but the model and the curve."""
        return {name: getattr(self, name) for name in ("steps", "total_steps", "share", "start", "end")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state and set the model's probabilities to it.

        Raises:
            ValueError: the state is that of a model with another number of blocks.
        """
        if len(state_dict["start"]) != len(self.start):
            raise ValueError(
                f"state_dict must be of a schedule of {len(self.start)} blocks, got one of {len(state_dict['start'])}"
            )
        self.steps, self.total_steps = state_dict["steps"], state_dict["total_steps"]
        self.share = state_dict["share"]
        self.start, self.end = list(state_dict["start"]), list(state_dict["end"])
        self._set()

    def _set(self) -> None:
        done = self._done()
        self._last = [(1.0 - done) * start + done * end for start, end in zip(self.start, self.end, strict=True)]
        set_survival_probs(self.model, self._last)

    def _done(self) -> float:
        """Part of the way that is done, in ``[0, 1]``."""
        progress = self.steps / (self.share * self.total_steps)
        if self.steps == 0 or progress >= 1.0 or self.curve is None:
            return min(progress, 1.0)
        return check_probability(f"curve({progress:g})", float(self.curve(progress)))


class StochasticDepthProbabilitySchedulerLinear:
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
    """

    def __init__(
        self,
        stoch_depth_probability: float = 1.0,
        final_stoch_depth_probability: float = 0.5,
        cur_epoch: int = 0,
        max_epochs: int | None = None,
        model: nn.Module | None = None,
    ) -> None:
        first = _probability("stoch_depth_probability", stoch_depth_probability)
        last = _probability("final_stoch_depth_probability", final_stoch_depth_probability)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
        self.model = model
        self.cur_epoch = _whole("cur_epoch", cur_epoch, 0)
        epochs = _whole("max_epochs", max_epochs, 1)
        self.schedule = torch.linspace(first, last, epochs).tolist()
        self._set(self.cur_epoch)

    def step(self) -> None:
        """Set the probability of the epoch that begins."""
        self._set(self.cur_epoch)
        self.cur_epoch += 1

    def get_last_probs(self) -> list[float]:
        """Return the probabilities of the model, one for each block, in forward order."""
        return survival_probs(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs, that to come and that whose probability the model has, and the probabilities."""
        return {"cur_epoch": self.cur_epoch, "set_epoch": self._set_epoch, "schedule": list(self.schedule)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, and set the model's probability to that of the epoch it was saved in."""
        self.cur_epoch, self.schedule = state_dict["cur_epoch"], list(state_dict["schedule"])
        self._set(state_dict["set_epoch"])

    def _set(self, epoch: int) -> None:
        self._set_epoch = epoch
        set_survival_probs(self.model, min(1.0, max(0.0, self.schedule[min(epoch, len(self.schedule) - 1)])))


def _whole(name: str, value: int | None, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def _probability(name: str, value: Any) -> float:
    return check_probability(name, _plain(value))


def _plain(value: Any) -> Any:
    """The number in a scalar of torch's or NumPy's; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _one_each(name: str, probs: Probs, count: int) -> list[float]:
    probs = _plain(probs)
    if isinstance(probs, str) or not isinstance(probs, Iterable):
        return [check_probability(name, probs)] * count
    values = [_probability(name, value) for value in probs]
    if len(values) == 2:
        return linear_decay(count, values[0], values[1]) if count > 1 else values[1:]
    if len(values) != count:
        raise ValueError(
            f"{name} must hold a pair, or one probability for each of the {count} blocks, got {len(values)}"
        )
    return values
