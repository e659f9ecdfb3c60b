"""What is left by the gates that were drawn: the share of the FLOPs, and of the saved bytes."""

import argparse
from collections.abc import Callable

import stodepth_models as sdm

from .measure import saved_bytes
from .models import Gates, gates_of, images, ours, precision


def executed_share(args: argparse.Namespace) -> Callable[[Gates], float]:
    """Share of the FLOPs that gates leave to do: what :func:`sdm.expected_flops` expects of gates that are certain."""
    model, size = ours(args, 1.0).to("meta"), (1, 3, args.image_size, args.image_size)

    def limit(gates: Gates) -> float:
        sdm.set_survival_probs(model, gates)
        return sdm.expected_flops(model, size).share

    return limit


def unavoidable_share(args: argparse.Namespace) -> Callable[[Gates], float]:
    """Share of the saved bytes that gates leave: not those that dropped rows would save in a branch.

    Where all rows are dropped, the block has no output of its own either.
    """
    model, x = ours(args, 1.0), images(args)
    gates, half = gates_of(model), len(x) // 2
    with precision(args):
        full, branches = saved_bytes(model, x, gates)
        # What does not grow with the batch, such as a cast weight, is saved for the first row already.
        rows = [
            (all_ - few) / (1 - half / len(x))
            for all_, few in zip(branches, saved_bytes(model, x[:half], gates)[1], strict=True)
        ]
        blocks = []
        for gate in gates:
            gate.survival_prob = 0.0
            blocks.append(full - saved_bytes(model, x)[0])
            gate.survival_prob = 1.0

    def limit(drawn: Gates) -> float:
        parts = zip(drawn, rows, blocks, strict=True)
        return 1 - sum(block if share == 0 else (1 - share) * branch for share, branch, block in parts) / full

    return limit
