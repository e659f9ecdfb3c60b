"""What goes wrong with weights, beside ValueError and TypeError for bad arguments."""

__all__ = ["CheckpointError", "DownloadError"]


class CheckpointError(ValueError, RuntimeError):
    """A file or state dict that is damaged, is no checkpoint, or does not fit the model.

    A RuntimeError to those who know ``torch.load`` and ``load_state_dict``, a ValueError to those who check arguments.
    """


class DownloadError(OSError):
    """A file that could not be fetched, or not be kept: network, server, disk, or offline by choice."""
