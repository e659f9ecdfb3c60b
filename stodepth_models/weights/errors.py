"""What goes wrong with weights, beside ValueError and TypeError for bad arguments."""


class CheckpointError(ValueError, RuntimeError):
    """A file or state dict that is damaged, is no checkpoint, or does not fit the model.

    A RuntimeError to those who know ``torch.load`` and ``load_state_dict``, a ValueError to those who check arguments.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay()
        >>> try:
        ...     sdm.load_pretrained(model, {"conv1.weight": torch.zeros(1)})
        ... except sdm.CheckpointError:
        ...     print("not loaded")
        not loaded
    """


class DownloadError(OSError):
    """A file that could not be fetched, or not be kept: network, server, disk, or offline by choice.

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay()
        >>> try:
        ...     sdm.load_pretrained(model, "http://localhost:9/resnet20.pth")
        ... except sdm.DownloadError:
        ...     print("not fetched")
        not fetched
    """


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    lines = str(error).splitlines()
    if not lines:
        return type(error).__name__
    return lines[0]
