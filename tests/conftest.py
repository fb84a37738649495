"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# The same cases in every run, however slow the machine.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights, tokenizers and texts that may lie beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no {SHARED_DATA.name} folder beside the checkout: real files not available")
    return SHARED_DATA
