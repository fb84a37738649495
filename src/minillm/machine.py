"""What this machine is and has to spare: memory, processors, names.

Everything only one system has stands behind a guard here. Linux paths are read below `root`, so
that a test can lay out any machine in a folder.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm import __version__
from minillm.quantities import size

ROOT = Path("/")


class Memory(NamedTuple):
    """Resident memory of this process in MB (10**6 bytes); None where the system does not say."""

    rss_mb: float | None
    peak_mb: float | None


def memory(root: Path = ROOT) -> Memory:
    """Memory of this process now and at its highest.

    Linux says both, macOS and the BSDs the highest only, Windows neither without a library.
    """
    status = _table(root / "proc/self/status")
    now, peak = _kib(status.get("VmRSS")), _kib(status.get("VmHWM"))
    if peak is None:
        peak = _peak_from_rusage()
    return Memory(*(None if n is None else n / 1e6 for n in (now, peak)))


def available_memory(root: Path = ROOT) -> int | None:
    """Bytes this process can still take without swapping; None where the system does not say.

    The least of the kernel's MemAvailable and, for each control group above this process, its
    limit minus what it holds, file pages it can drop not counted.
    """
    available = _kib(_table(root / "proc/meminfo").get("MemAvailable"))
    bounds = [] if available is None else [available]
    for limit, group in _memory_limits(root):
        held = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        stat = dict(line.split() for line in _lines(group / "memory.stat") if line.count(" ") == 1)
        cache = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        bounds.append(max(0, limit - max(0, held - cache)))
    return min(bounds, default=None)


def total_memory(root: Path = ROOT) -> int | None:
    """Bytes of memory this process may use at most: the machine's or its control group's."""
    total = _kib(_table(root / "proc/meminfo").get("MemTotal"))
    if total is None and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    bounds = [limit for limit, _ in _memory_limits(root)]
    return min(bounds if total is None else [total, *bounds], default=None)


def cpu_count(root: Path = ROOT) -> int:
    """Processors this process may keep busy: its affinity, its control group's quota rounded up."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        text = " ".join(_lines(group / "cpu.max")).split() or [
            " ".join(_lines(group / name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        ]
        if len(text) == 2 and all(part.isdecimal() for part in text) and int(text[1]):
            cores = min(cores, math.ceil(int(text[0]) / int(text[1])))
    return max(1, cores)


def cpu_name(root: Path = ROOT) -> str:
    """The processor as its maker calls it, else its architecture."""
    name = _table(root / "proc/cpuinfo").get("model name")
    if name is None and sys.platform == "darwin":
        import subprocess

        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
        name = answer.stdout.strip()
    return name or platform.processor() or platform.machine() or "unknown"


def cuda_driver() -> int | None:
    """The CUDA that the driver of NVIDIA is for, 13000 for 13.0; None where there is no driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    found = ctypes.c_int()
    try:
        status = ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(found))
    except (OSError, AttributeError):
        return None
    return found.value if status == 0 else None


def environment() -> dict[str, str]:
    """Versions and machine, as plain strings, for the record of a run."""
    memory_bytes = total_memory()
    return {
        "minillm": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": str(cpu_count()),
        "memory": "unknown" if memory_bytes is None else size(memory_bytes),
    }


def _peak_from_rusage() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _memory_limits(root: Path) -> Iterator[tuple[int, Path]]:
    """Each control group that limits memory. The first version writes "no limit" as 2**63."""
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit is not None and limit < 2**60:
            yield limit, group


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The control groups of this process for `controller`, innermost first, both versions."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number != "0" and controller not in controllers.split(","):
            continue
        for mount, mounted_path in _mounts(root, controller if number != "0" else ""):
            if mounted_path == "/":
                inside = Path(path.lstrip("/"))
            elif f"{path}/".startswith(f"{mounted_path}/"):
                inside = Path(path[len(mounted_path) :].lstrip("/"))
            else:
                inside = Path()
            for part in (inside, *inside.parents):
                yield mount / part


def _mounts(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    """Where the controller's tree is mounted, and which of its groups is mounted there.

    An empty controller stands for version 2, whose one tree holds all of them.
    """
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, *_, options = rest.split()
        if (kind == "cgroup2" and not controller) or (
            kind == "cgroup" and controller and controller in options.split(",")
        ):
            mounted_path, mount = fields.split()[3:5]
            yield root / mount.lstrip("/"), mounted_path


def _table(path: Path) -> dict[str, str]:
    """`name: value` lines; of a repeated name the first."""
    pairs = (line.partition(":") for line in reversed(_lines(path)))
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _lines(path: Path) -> list[str]:
    """The lines of a file the kernel provides; none where it does not."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path))
    return int(text) if text.isdecimal() else None


def _kib(value: str | None) -> int | None:
    return None if value is None else int(value.split()[0]) * 1024
