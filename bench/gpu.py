"""Everything there is to know of minillm on a GPU, by one command: python bench/gpu.py

Builds the extension for the GPU in a temporary folder, runs the property suite there, with
compute-sanitizer where it is found, and measures beside PyTorch what is measured; about nine
minutes at most. Each part is a process of its own with a time limit: one that fails costs itself.
Needs CUDA, CMake, pybind11, CuPy, PyTorch, pytest and hypothesis. Exit code 1 if a figure is
missed. --rehearse runs all of it but the build on a machine without a GPU, at tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = {"limits": 60, "train": 200, "attention": 60, "bound": 90, "decode": 60, "curve": 90}
CHECKED = {"suite": 180, "sanitizer": 150}
SECONDS = {"build": 240} | MEASURED | CHECKED  # at most, each
IN_ALL, LEAST = 530, 5  # seconds of the whole, and for a part to be begun
SUITE = ["tests/test_cuda.py", "tests/test_cuda_attention.py", "tests/test_cuda_products.py"]
PYTEST = ["-m", "pytest", "-o", "addopts=", "-q", "-x", "-p", "no:cacheprovider"]


class Run:
    """The parts so far: their rows, and the time that is left."""

    def __init__(self, package: Path, rehearse: bool) -> None:
        self.end = time.monotonic() + IN_ALL
        self.rehearse = rehearse
        self.rows: list[dict[str, Any]] = []
        self.environment = os.environ | {
            "PYTHONPATH": f"{package}:{ROOT}",
            "MINILLM_KERNELS": "auto",  # the package has no extension for the CPU
        }

    def command(self, part: str, command: list[str]) -> str | None:
        """Run it; its rows are kept, its other lines shown. None if it worked, else why not."""
        left = self.end - time.monotonic()
        if left < LEAST:
            return "no time was left"
        seconds = min(SECONDS[part], left)
        print(f"== {part}, at most {seconds:.0f} s", flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, stop)
        timer.start()
        last = ""
        try:
            for line in process.stdout or ():
                last = self.take(part, line) or last
            code = process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            return f"stopped after {seconds:.0f} s"
        return None if code == 0 else last or f"exit code {code}"

    def take(self, part: str, line: str) -> str:
        """Keep a row; show any other line, and give it back unless it is empty."""
        if line.startswith("row "):
            row = {"part": part} | json.loads(line.removeprefix("row "))
            self.rows.append(row)
            print("   " + " | ".join(cells(row)), flush=True)
            return ""
        print("   " + line.rstrip(), flush=True)
        return line.strip()

    def part(self, name: str, command: list[str]) -> bool:
        """Run a part; whether it worked. That it did not is a row."""
        error = self.command(name, command)
        if error is not None or name in CHECKED or name == "build":
            self.rows.append({"part": name, "what": name, "error": error, "passed": error is None})
        if error is not None:
            print(f"   {name}: {error}", flush=True)
        return error is None

    def limits(self) -> str:
        """What the part `limits` found, as JSON."""
        found = (row for row in self.rows if row["part"] == "limits" and "ours" in row)
        return json.dumps({row["what"]: row["ours"] for row in found})


def build(run: Run, package: Path) -> bool:
    """The package with the extension for this machine's GPU, and none for its CPU."""
    import cupy
    import pybind11

    made = package / "build"
    shutil.copytree(
        ROOT / "src" / "minillm",
        package / "minillm",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    nvcc = shutil.which("nvcc", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    settings = {
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_CUDA_COMPILER": nvcc or "nvcc",
        "CMAKE_CUDA_ARCHITECTURES": cupy.cuda.Device().compute_capability,
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": package / "minillm",
    }
    configure = ["cmake", "-S", str(ROOT / "cmake" / "cuda"), "-B", str(made)]
    configure += [f"-D{name}={value}" for name, value in settings.items()]
    compile_it = ["cmake", "--build", str(made), "--parallel", str(os.cpu_count() or 1)]
    both = " && ".join(map(shlex.join, (configure, compile_it)))
    return run.part("build", ["sh", "-c", both])


def check(run: Run, part: str) -> None:
    """The property suite; under compute-sanitizer a share of it."""
    pytest = [sys.executable, *PYTEST]
    if part == "suite":
        run.part(part, [*pytest, *SUITE])
        return
    found = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    if found is None:
        run.rows.append({"part": part, "what": part, "error": "not found", "passed": None})
        return
    chosen = ["-k", "any_length or long_rows", SUITE[0]]
    run.part(part, [found, "--error-exitcode", "9", *pytest, *chosen])


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table: what, ours, the others', how it compares, what is needed, whether so."""
    passed = {True: "yes", False: "NO", None: ""}[row["passed"]]
    if "error" in row:
        return [row["what"], row["error"] or "passed", "", "", "", passed]
    number = "{:.4g}".format
    others = ", ".join(f"{name} {number(value)}" for name, value in row["rivals"].items())
    got = "" if row["got"] is None else f"{number(row['got'])} {row['measure']}"
    needed = "" if row["needed"] is None else f"{'≤' if row['at_most'] else '≥'} {row['needed']:g}"
    return [row["what"], f"{number(row['ours'])} {row['unit']}", others, got, needed, passed]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    heads = ["what", "minillm", "PyTorch", "compared", "needed", "reached"]
    lines = [heads, ["---"] * len(heads), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def machine() -> dict[str, str]:
    """The card and the libraries."""
    import cupy

    runtime = cupy.cuda.runtime
    facts = {"card": runtime.getDeviceProperties(0)["name"].decode(), "cupy": cupy.__version__}
    facts["cuda"] = str(runtime.runtimeGetVersion())
    facts["driver"] = str(runtime.driverGetVersion())
    return facts


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=[*MEASURED, *CHECKED], metavar="PART")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--table", type=Path, default=Path("gpu.md"))
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    sys.path.insert(0, str(ROOT / "src"))
    from minillm import devices

    if not options.rehearse:
        try:
            devices.use(0)
        except RuntimeError as error:
            print(f"gpu: {error}; --rehearse runs without one", file=sys.stderr)
            return 2
    facts = {"card": "none, a rehearsal"} if options.rehearse else machine()
    for name, value in facts.items():
        print(f"{name:8} {value}")
    with tempfile.TemporaryDirectory() as folder:
        package = ROOT / "src" if options.rehearse else Path(folder)
        run = Run(package, options.rehearse)
        if options.rehearse or build(run, package):
            wanted = options.only or SECONDS
            for part in MEASURED:
                if part in wanted or part == "limits":  # which the others are compared with
                    command = [sys.executable, "-m", "bench.gpu_parts", part, run.limits()]
                    run.part(part, command + ["rehearse"] * options.rehearse)
            for part in CHECKED:
                if part in wanted:
                    check(run, part)
    text = table(run.rows)
    options.json.write_text(json.dumps({"machine": facts, "rows": run.rows}, indent=1) + "\n")
    options.table.write_text(f"{facts['card']}\n\n{text}", encoding="utf-8")
    print(f"\n{text}\nwritten: {options.json}, {options.table}")
    return int(any(row["passed"] is False for row in run.rows))


if __name__ == "__main__":
    sys.exit(main())
