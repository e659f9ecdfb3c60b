"""From a source to a checkpoint, and from a checkpoint into a model."""
