"""How a run ends other than by finishing."""

from typing import Any


class SettingsError(ValueError):
    """A setting that cannot be used: found before any work is done."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """A signal asked the run to stop; a checkpoint is written."""


class Diverged(RuntimeError):  # noqa: N818 - what happened, as in the log
    """The loss is not a number, or accuracy stays at chance."""

    def __init__(self, what: str, checkpoint: Any) -> None:
        good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        super().__init__(
            f"{what}; {good}; try a lower optim.lr, optim.warmup_epochs above 0, precision=no, "
            "or look for images with wrong labels"
        )
