"""Benchmarks: `python -m bench --help`, from the checkout. README.md explains every figure."""
