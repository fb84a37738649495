"""The bounds that csrc/cpu/math.h states, on a sample of all floats."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "functions"
COMPILER = os.environ.get("CXX") or "c++"


@pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which(COMPILER) is None,
    reason=f"no C++ compiler ({COMPILER}) here",
)
def test_elementary_functions_keep_their_bounds_on_every_instruction_set():
    done = subprocess.run(
        ["bash", SCRIPT, "1009"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("of the bound") % 7 == 0 < done.stdout.count("of the bound")
