"""How a run ends other than by finishing."""

from collections.abc import Sequence
from typing import Any


def first_line(error: Exception) -> str:
    """Return what an error says in its first line, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class SettingsError(ValueError):
    """A setting that cannot be used: found before any work is done."""


class MissingExtra(ImportError):  # noqa: N818 - what is missing
    """A package of the extra ``[train]`` is not installed."""

    def __init__(self, missing: Sequence[str]) -> None:
        # The package is in no index: its name alone would install nothing, or what somebody else published under it.
        super().__init__(
            f"this command needs {', '.join(missing)}: pip install -e '.[train]' in a checkout, or "
            "pip install 'stodepth_models[train] @ git+https://github.com/OWNER/REPO', where OWNER/REPO is the "
            "address that you installed from"
        )


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
