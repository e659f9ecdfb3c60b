"""One training run: its model, steps, state, metrics and folder."""
