"""Training, evaluation and reports. Needs the extra ``[train]``; the core package imports none of it."""
