"""Callbacks for trainers: ``callbacks.lightning`` and ``callbacks.huggingface``, each with its trainer's package."""

__all__: list[str] = []
