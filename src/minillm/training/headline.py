"""A training run in a few sentences and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minillm.quantities import count, decimal, duration, size
from minillm.training.metrics import Summary
from minillm.training.objective import BY_LOSS, Best, plain
from minillm.training.steplog import Row


def sentences(summary: Summary, decides: Best = BY_LOSS) -> str:
    """The run in three or four sentences."""
    if not summary.steps:
        return "No training step has been recorded yet."
    tokens = "" if summary.tokens is None else f" on {count(summary.tokens)} tokens"
    time = "" if summary.elapsed_s is None else f" in {duration(summary.elapsed_s)}"
    said = [f"Trained for {_of('step', summary.steps)}{tokens}{time}."]
    final, best = summary.final, summary.best
    if final is None or best is None:
        said.append("No validation was run.")
    elif decides.metric != "val_loss":
        name, value = plain(decides.metric), decimal(best[decides.metric])
        said.append(f"Validation loss ended at {_with_bits(final)}.")
        said.append(f"The best {name}, {value}, was at step {best['step']:,}.")
    else:
        said.append(f"Validation loss ended at {_with_bits(final)}.")
        if best["val_loss"] < final["val_loss"]:
            said.append(f"Its lowest, {_with_bits(best)}, was at step {best['step']:,}.")
        if final["val_loss"] > best["val_loss"] > 0:
            rise = final["val_loss"] / best["val_loss"] - 1
            said.append(f"It has risen by {100 * rise:.1f} % since.")
    if summary.skipped:
        said.append(f"The numerics guard marked {_of('step', len(summary.skipped))}.")
    return " ".join(said)


def headline(
    summary: Summary, facts: Mapping[str, Any], decides: Best = BY_LOSS
) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, note."""
    found: list[tuple[str, str, str]] = []
    best = summary.best
    if best is not None and decides.metric != "val_loss":
        value = decimal(best[decides.metric])
        found.append((f"Best {plain(decides.metric)}", value, f"at step {best['step']:,}"))
    if best is not None and "val_loss" in best:
        found.append(("Best validation loss", decimal(best["val_loss"]), "nats per token"))
    if best is not None and "val_bpb" in best:
        found.append(("Bits per byte", decimal(best["val_bpb"]), f"at step {best['step']:,}"))
    if summary.loss is not None:
        found.append(("Training loss", decimal(summary.loss), "nats per token, smoothed"))
    model = facts.get("model")
    parameters = model.get("parameters") if isinstance(model, dict) else None
    if isinstance(parameters, int):
        found.append(("Parameters", count(parameters), f"{parameters:,}"))
    if summary.tokens is not None:
        found.append(("Tokens seen", count(summary.tokens), f"{summary.tokens:,}"))
    if summary.elapsed_s is not None:
        found.append(("Time", duration(summary.elapsed_s), _of("step", summary.steps)))
    if summary.tokens_per_s is not None:
        found.append(("Speed", count(summary.tokens_per_s), "tokens per second, median"))
    if summary.rss_mb is not None:
        found.append(("Memory", size(summary.rss_mb * 1e6), "resident, highest"))
    return found


def _with_bits(row: Row) -> str:
    bits = f" ({decimal(row['val_bpb'])} bits per byte)" if "val_bpb" in row else ""
    return f"{decimal(row['val_loss'])} nats per token{bits}"


def _of(thing: str, n: int) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"
