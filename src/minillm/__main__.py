"""The command `minillm`, also as `python -m minillm`: `main` in a process of its own."""

import gc

from minillm.cli.main import main

YOUNG = 20_000  # objects between two looks for cycles; a command starts with 100 000 that stay


def run() -> int:
    """Run the command line of this process; the exit code."""
    gc.set_threshold(YOUNG)
    code = main()
    gc.freeze()  # no look at what the system takes back at once
    return code


if __name__ == "__main__":
    raise SystemExit(run())
