"""A run for which a device has not memory enough: what is told, and what would fit."""

from __future__ import annotations

from typing import Any

from minillm import device_memory
from minillm.training.tuning_memory import MOMENT_BYTES


def told(error: MemoryError, trainer: Any) -> str:
    """`out of memory of cuda: ...`, and the batch to try, which may fit there.

    What the step would have taken in the end is not known, only that it is more.
    """
    found = device_memory.shortage(error)
    if found is None:
        return f"out of memory ({error})" if str(error) else "out of memory"
    s = trainer.settings
    rows = fitting(s.batch, found.used + found.asked, found.most, fixed_bytes(trainer))
    again = "" if s.recompute else ", or --recompute"
    cure = f"a smaller model or context{again} is needed"
    if rows:
        cure = f"try a new run with --batch {rows} --accumulate {s.accumulate * s.batch // rows}"
        cure += again
    return f"out of memory of {s.device}, {found}; {cure}"


def fixed_bytes(trainer: Any) -> int:
    """What a step takes whatever its batch: weights, gradients, moments, averages."""
    trained = sum(parameter.size for parameter in trainer.trained.values())
    beside = 4 + MOMENT_BYTES[trainer.settings.optimizer] + 4 * (trainer.average is not None)
    return int(trainer.model.nbytes + trained * beside)


def fitting(batch: int, needed: int, most: int, fixed: int) -> int:
    """Rows, a divisor of `batch` and less, whose step takes at most `most` bytes; 0 for none.

    A step of `batch` rows takes `needed`, of which `fixed` do not depend on rows.
    """
    each = max(0, needed - fixed) / batch
    fit = [n for n in range(1, batch) if batch % n == 0 and fixed + n * each <= most]
    return max(fit, default=0)
