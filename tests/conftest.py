"""Fixtures and settings that every test file shares."""

from pathlib import Path

import pytest
import torch

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# The suite runs in several processes at once: one thread each, or they fight over the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of data sets and published weights beside the checkout; the test is skipped where there is none."""
    if not _SHARED_DATA.is_dir():
        pytest.skip(f"needs the shared data in {_SHARED_DATA}, which is not there")
    return _SHARED_DATA
