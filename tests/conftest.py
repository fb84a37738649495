"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

import stand_in_cupy
from cuda_device import device
from minillm import testing

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


@pytest.fixture
def under_test(monkeypatch):
    """The GPU, or what plays one, as one of the providers while the test runs."""
    monkeypatch.setattr(testing, "devices", [device])
    if device.name != "cuda on host":
        yield device
        return
    with stand_in_cupy.installed():
        yield device
    device.lib.runtime.set_order(0)


@pytest.fixture(scope="module")
def url():
    """The address of a server of the web page's models."""
    from small_page import served

    with served() as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    from small_page import browser

    with browser() as found:
        yield found
