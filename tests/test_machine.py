"""The machine: this one against independent readings, others laid out in a folder."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from minillm import __version__, machine

LINUX = sys.platform.startswith("linux")
linux_only = pytest.mark.skipif(not LINUX, reason="reads what only Linux writes")

MEMINFO = "MemTotal:  8000000 kB\nMemFree: 1 kB\nMemAvailable:  4000000 kB\n"
CGROUP2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
CGROUP1 = (
    "33 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "34 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
CONTAINER1 = "34 30 0:31 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"


def lay_out(root, files):
    """Write a machine's files below `root`; `cgroup/x` stands for `sys/fs/cgroup/x`."""
    for name, text in files.items():
        path = root / ("sys/fs" if name.startswith("cgroup/") else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@linux_only
def test_resident_memory_follows_what_is_allocated():
    before = machine.memory()
    block = np.ones(8_000_000)  # 64 MB
    held = machine.memory()
    assert 55 < held.rss_mb - before.rss_mb < 75
    assert held.peak_mb >= held.rss_mb
    del block
    after = machine.memory()
    assert after.rss_mb < held.rss_mb - 40
    assert after.peak_mb > held.rss_mb - 5  # the kernel counts in batches


def test_memory_is_read_in_kibibytes(tmp_path):
    lay_out(tmp_path, {"proc/self/status": "Name:\tx\nVmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\n"})
    assert machine.memory(tmp_path) == (1.024, 2.048)


def test_a_system_without_proc_says_what_it_can(tmp_path):
    now, peak = machine.memory(tmp_path)
    assert now is None
    assert peak is None or 1 < peak < 1e6  # from getrusage: neither bytes nor kibibytes taken wrong
    assert machine.available_memory(tmp_path) is None
    assert machine.cpu_count(tmp_path) >= 1
    assert machine.cpu_name(tmp_path)


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 4_096_000_000),
        (  # a container that sees itself as the root
            {
                "proc/self/cgroup": "0::/\n",
                "proc/self/mountinfo": CGROUP2,
                "cgroup/memory.max": "1000000000\n",
                "cgroup/memory.current": "700000000\n",
                "cgroup/memory.stat": "anon 1\nfile 300000000\ninactive_file 200000000\n",
            },
            500_000_000,
        ),
        (  # the limit stands on a group above
            {
                "proc/self/cgroup": "0::/user/run\n",
                "proc/self/mountinfo": CGROUP2,
                "cgroup/user/memory.max": "1000000000\n",
                "cgroup/user/memory.current": "100000000\n",
                "cgroup/user/run/memory.max": "max\n",
                "cgroup/user/run/memory.current": "90000000\n",
            },
            900_000_000,
        ),
        (  # more held than allowed
            {
                "proc/self/cgroup": "0::/a\n",
                "proc/self/mountinfo": CGROUP2,
                "cgroup/a/memory.max": "1000\n",
                "cgroup/a/memory.current": "2000\n",
            },
            0,
        ),
        (  # version 1, the container's group mounted as the tree
            {
                "proc/self/cgroup": "4:memory:/docker/ab\n0::/\n",
                "proc/self/mountinfo": CONTAINER1,
                "cgroup/memory/memory.limit_in_bytes": "512000000\n",
                "cgroup/memory/memory.usage_in_bytes": "112000000\n",
                "cgroup/memory/memory.stat": "inactive_file 5\ntotal_inactive_file 12000000\n",
            },
            412_000_000,
        ),
        (  # version 1 without a limit
            {
                "proc/self/cgroup": "4:memory:/x\n",
                "proc/self/mountinfo": CGROUP1,
                "cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
                "cgroup/memory/x/memory.usage_in_bytes": "112000000\n",
            },
            4_096_000_000,
        ),
    ],
)
def test_available_memory_is_the_tightest_bound(tmp_path, files, available):
    lay_out(tmp_path, {"proc/meminfo": MEMINFO} | files)
    assert machine.available_memory(tmp_path) == available


def test_total_memory_respects_the_control_group(tmp_path):
    group = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": CGROUP2}
    lay_out(tmp_path, {"proc/meminfo": MEMINFO, **group})
    assert machine.total_memory(tmp_path) == 8_192_000_000
    lay_out(tmp_path, {"cgroup/memory.max": "3000\n"})
    assert machine.total_memory(tmp_path) == 3000


@linux_only
def test_processors_are_those_of_the_affinity():
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert machine.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert 1 <= machine.cpu_count() <= len(mine)


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_processor_quota_is_rounded_up(tmp_path, monkeypatch, version, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if version == 2:
        files = {
            "proc/self/cgroup": "0::/a\n",
            "proc/self/mountinfo": CGROUP2,
            "cgroup/a/cpu.max": quota + "\n",
        }
    else:
        limit, period = quota.replace("max", "-1").split()
        files = {
            "proc/self/cgroup": "2:cpu,cpuacct:/a\n",
            "proc/self/mountinfo": CGROUP1,
            "cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": limit + "\n",
            "cgroup/cpu,cpuacct/a/cpu.cfs_period_us": period + "\n",
        }
    assert machine.cpu_count(lay_out(tmp_path, files)) == cores


def test_the_processor_has_its_makers_name(tmp_path):
    lay_out(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: First @ 2 GHz: x\n\n"
            "processor\t: 1\nmodel name\t: Second\n"
        },
    )
    assert machine.cpu_name(tmp_path) == "First @ 2 GHz: x"


def test_the_environment_is_plain_text():
    found = machine.environment()
    assert list(found) == ["minillm", "python", "numpy", "platform", "cpu", "cores", "memory"]
    assert all(type(value) is str and value for value in found.values())
    assert found["minillm"] == __version__
    assert found["numpy"] == np.__version__
    assert platform.python_version() in found["python"]


def test_tqdm_is_loaded_only_for_a_bar():
    code = "import sys, minillm.training.progress; print('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]
