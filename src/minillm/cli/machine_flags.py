"""What a command computes on: --threads and --device."""

from __future__ import annotations

import argparse


def add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the extension")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="cpu|cuda|cuda:N", help="where it computes (cpu)")


def settle(arguments: argparse.Namespace) -> None:
    """Set what was asked for; ValueError or RuntimeError in one line for what cannot be."""
    from minillm import kernels

    if arguments.threads is not None:
        kernels.set_threads(arguments.threads)
    if arguments.device is not None:
        kernels.set_default_device(arguments.device)
