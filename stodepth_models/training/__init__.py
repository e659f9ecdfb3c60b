"""What the scripts in ``scripts/`` are made of. Needs the extra ``[train]``; the core package imports none of it."""
