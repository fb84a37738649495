"""Everything there is to know of minillm on a GPU, by one command: python bench/gpu.py

Builds the extension for the GPU, measures beside PyTorch what is measured, runs the property suite
there and a share of it under compute-sanitizer where that is found; about ten minutes at most. Each
part is a process of its own with a time limit: one that fails costs itself, and what is found is
written after each. --only PART ... runs some, and leaves what the JSON file has of others; --keep
FOLDER builds there, once. Needs CUDA, a C++ compiler, Python's headers, CMake, pybind11, CuPy,
PyTorch, pytest and hypothesis; with safetensors and jinja2 runs are saved and tuned there, too.
Exit code 1 if a figure is missed. --rehearse runs all of it but build and sanitizer on a machine
without a GPU, at tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench.gpu_run import Row, Run, table  # noqa: E402

# Seconds, at most; a suite's are those of each file.
MEASURED = {
    "limits": 60,
    "train": 120,
    "compiled": 200,
    "attention": 60,
    "bound": 120,
    "muon": 60,
    "decode": 90,
    "curve": 90,
}
SANITIZERS = {"memcheck": 200, "racecheck": 150, "synccheck": 100}
CHECKED = {"suite": 150, "doctor": 120} | SANITIZERS
PARTS = {"build": 300} | MEASURED | CHECKED
IN_ALL = 570.0  # seconds of the whole
FIRST = ("limits", "train", "attention", "decode", "bound", "suite", "muon", "compiled", "curve")
COMPARED = ("limits", "train", "bound", "muon")  # what the first is measured for
PYTEST = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider"]
SHARE = "any_length or large_cases or every_size"  # of the tests, under a sanitizer
SANITIZED = ("test_cuda.py", "test_cuda_attention.py", "test_cuda_step.py")


def build(run: Run, package: Path) -> bool:
    """The package with the extension for this machine's GPU, and none for its CPU."""
    import cupy
    import pybind11

    made = package / "build"
    shutil.copytree(
        ROOT / "src" / "minillm",
        package / "minillm",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        dirs_exist_ok=True,
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
    configure += ["-G", "Ninja"] if shutil.which("ninja") else []
    configure += [f"-D{name}={value}" for name, value in settings.items()]
    compile_it = ["cmake", "--build", str(made), "--parallel", str(os.cpu_count() or 1)]
    load = [sys.executable, "-c", "from minillm import kernels; assert kernels.cuda is not None"]
    steps = " && ".join(map(shlex.join, (configure, compile_it, load)))
    return run.check("build", "build", ["sh", "-c", steps], PARTS["build"])


def check(run: Run, part: str, rehearse: bool) -> None:
    """The property suite by files, since an error of the GPU ends all of a process; what doctor
    finds, which is every operation by CuPy and by the extension; a share of the suite under a tool
    of compute-sanitizer."""
    limit = PARTS[part]
    if part == "suite":
        for path in sorted((ROOT / "tests").glob("test_cuda*.py")):
            if path.stem != "test_cuda_on_host":
                command = [*PYTEST, "-rf", "--tb=short", "--maxfail=9", str(path)]
                run.check(part, f"{part} {path.stem}", command, limit, "" if rehearse else "passed")
    elif part == "doctor":
        command = [sys.executable, "-m", "minillm", "doctor", "--cases", "2" if rehearse else "12"]
        run.check(part, part, command, limit)
    else:
        found = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
        if rehearse or found is None:
            return run.told(part, part, "no GPU" if rehearse else "not found", None)
        sanitizer = [found, "--tool", part, "--error-exitcode", "9"]
        if part == "memcheck":  # errors of kernels alone: libraries probe what a driver can do
            sanitizer += ["--report-api-errors", "no"]
        run.environment["MINILLM_TEST_EXACT_MEMORY"] = "1"
        files = [str(ROOT / "tests" / name) for name in SANITIZED]
        run.check(part, part, [*sanitizer, *PYTEST, "-k", SHARE, *files], limit)
        del run.environment["MINILLM_TEST_EXACT_MEMORY"]


def machine() -> dict[str, str]:
    """The card and the libraries."""
    import cupy

    runtime = cupy.cuda.runtime
    facts = {"card": runtime.getDeviceProperties(0)["name"].decode(), "cupy": cupy.__version__}
    facts["cuda"] = str(runtime.runtimeGetVersion())
    facts["driver"] = str(runtime.driverGetVersion())
    return facts


def earlier(path: Path, facts: dict[str, str], wanted: list[str] | None) -> list[Row]:
    """The rows that the file has, from this machine, of parts that are not run now."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text:
        return []
    try:
        content = json.loads(text)
        machine, rows = content["machine"], content["rows"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} holds no figures of a GPU; name another file by --json") from None
    if machine != facts:
        raise ValueError(
            f"{path} is of another machine or of other versions, another file is needed; name it "
            "by --json"
        )
    return [row for row in rows if wanted is not None and row["part"] not in (*wanted, "build")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=[*MEASURED, *CHECKED], metavar="PART")
    parser.add_argument("--seconds", type=float, default=IN_ALL, metavar="N", help="of the whole")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build there, and keep it")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--table", type=Path, default=Path("gpu.md"))
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args()


def run_parts(run: Run, package: Path, options: argparse.Namespace) -> None:
    """All that is wanted. Without the extension CuPy alone is measured, and the suite is not run:
    it would have nothing to test."""
    rehearse, wanted = options.rehearse, options.only or PARTS
    built = rehearse or build(run, package)
    order = [*FIRST, *(part for part in PARTS if part not in FIRST and part != "build")]
    for part in order:
        asked = any(one in wanted for one in COMPARED) if part == "limits" else part in wanted
        if part in MEASURED and asked:
            command = [sys.executable, "-m", "bench.gpu_parts", part, run.limits()]
            run.measure(part, command + ["rehearse"] * rehearse, PARTS[part])
        elif asked:
            if built or part == "doctor":
                check(run, part, rehearse)
            else:
                run.told(part, part, "not run: there is no extension", False)


def begin(options: argparse.Namespace) -> tuple[dict[str, str], list[Row]]:
    """The machine, and what the file has of it; what is wrong is found here, not after minutes."""
    if not options.rehearse:
        from minillm import devices

        devices.use(0)
    facts = {"card": "none, a rehearsal"} if options.rehearse else machine()
    before = earlier(options.json, facts, options.only)
    for path in (options.json, options.table):
        path.open("a").close()
    return facts, before


def main() -> int:
    options = arguments()
    sys.path.insert(0, str(ROOT / "src"))
    try:
        facts, before = begin(options)
    except OSError as error:
        print(f"gpu: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    except (RuntimeError, ValueError) as error:
        hint = "; --rehearse runs without one" if isinstance(error, RuntimeError) else ""
        print(f"gpu: {error}{hint}", file=sys.stderr)
        return 2
    for name, value in facts.items():
        print(f"{name:8} {value}")

    def save(rows: list[Row]) -> None:
        content: dict[str, Any] = {"machine": facts, "rows": before + rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        options.table.write_text(f"{facts['card']}\n\n{table(before + rows)}", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        package = ROOT / "src" if options.rehearse else options.keep or Path(folder)
        run = Run(package.absolute(), options.seconds, save)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # parts would go on by themselves
        try:
            run_parts(run, package.absolute(), options)
        except KeyboardInterrupt:
            save(run.rows)
            told = f"gpu: stopped; what was found is in {options.json}, {options.table}"
            print(told, file=sys.stderr)
            return 130
    save(run.rows)
    print(f"\n{table(before + run.rows)}\nwritten: {options.json}, {options.table}")
    return int(any(row["passed"] is False for row in before + run.rows))


if __name__ == "__main__":
    sys.exit(main())
