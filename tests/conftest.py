"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights, tokenizers and texts that may lie beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no {SHARED_DATA.name} folder beside the checkout: real files not available")
    return SHARED_DATA
