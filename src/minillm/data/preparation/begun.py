"""What is in the folder of a preparation before it begins or goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ...formats.hf import read_json
from .prepared import MANIFEST, Prepared

WORK, JOB = "work", "job.json"


def begun(out: Path, job: dict[str, Any]) -> Prepared | None:
    """What a preparation of this identity made whole in `out`; None where there is work to do.

    Raises ValueError where something else is there.
    """
    work = out / WORK
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if (out / MANIFEST).is_file():
        prepared = Prepared.open(out)
        if prepared.content.get("job") != job:
            raise _refusal(out, "prepared data of another command")
        if work.exists():  # killed at the very end
            shutil.rmtree(work)
        return prepared
    if (work / JOB).is_file():
        there = read_json(work / JOB)
        other = [name for name in job if there.get(name) != job[name]]
        if other and any(path.suffix == ".npz" for path in work.iterdir()):  # a part is done
            raise ValueError(
                f"prepare: {out} was begun with other {' and '.join(other)}, the same command is "
                f"needed to go on; delete {out}, or choose another --out"
            )
        return None
    if work.is_dir() and all(path == work for path in out.iterdir()):
        return None  # killed before the first file
    raise _refusal(out, "something else")


def _refusal(out: Path, what: str) -> ValueError:
    return ValueError(f"prepare: {out} holds {what}, a new folder is needed; choose another --out")
