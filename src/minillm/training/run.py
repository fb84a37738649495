"""Driving a Trainer to its end: when to validate, save, show and stop, and what to record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minillm import device_memory
from minillm.formats import hf
from minillm.formats.files import remove_leftovers
from minillm.formats.lock import Lock
from minillm.machine import memory
from minillm.quantities import counted
from minillm.training import shortage, steplog
from minillm.training.interrupt import Interrupt
from minillm.training.metrics import MetricsLog
from minillm.training.objective import phrase, plain
from minillm.training.progress import Progress
from minillm.training.report import write_report
from minillm.training.run_folder import INNER, OUTCOME, Say
from minillm.training.steplog import StepLog
from minillm.training.trackers.tracking import CRASHED, Tracking
from minillm.training.trainer import Interrupted, Step, Trainer

LOGGED_STEPS = 2000
Measured = Mapping[str, float]


class Run:
    """Drives a Trainer to its end and records what it measures."""

    def __init__(
        self,
        trainer: Trainer,
        say: Say,
        stop_after: int | None = None,
        track: Sequence[str] = (),
    ) -> None:
        self.trainer, self.say, self.stop_after = trainer, say, stop_after
        folder, step = trainer.folder, trainer.counters.step
        command = trainer.settings.command
        refusal = f"{command}: another process is training in {folder}; stop it first"
        self.lock = Lock(folder / INNER, refusal)
        for place in (folder, folder / INNER):
            remove_leftovers(place)
        self.metrics = MetricsLog(folder / "metrics.jsonl", step)
        self.samples = StepLog(folder / INNER / "samples.jsonl", step)
        for notice in (self.metrics.notice, self.samples.notice):
            if notice:
                say(notice)
        rows = steplog.read(self.metrics.path)
        (folder / INNER / OUTCOME).unlink(missing_ok=True)  # not known again until it ends
        self.elapsed_before = max((row.get("elapsed_s", 0.0) for row in rows), default=0.0)
        steps = trainer.settings.steps
        self.log_every = max(1, (steps or 0) // LOGGED_STEPS)
        self.begin = time.perf_counter()
        self.shortage = ""  # what memory was short of
        self.reserve = 0.0  # seconds kept for the last evaluation of a run with a time budget
        self.step_seconds = trainer.step_seconds
        self.saved_step = step if step else 0
        self.tracking = Tracking(track, folder, step)

    @property
    def elapsed(self) -> float:
        return self.elapsed_before + time.perf_counter() - self.begin

    def progress_after(self) -> float:
        """How far the run is once the next step is done, 0 to 1."""
        s, place = self.trainer.settings, self.trainer.counters
        if s.time is None:
            return (place.step + 1) / s.steps  # type: ignore[operator]
        left = s.time - self.reserve - self.elapsed
        if left < 2 * self.step_seconds:  # no time for another one after it
            return 1.0
        return max(place.progress, 1 - (left - self.step_seconds) / s.time)

    def finished(self) -> bool:
        return self.trainer.counters.progress >= 1 or self.trainer.out_of_patience

    def train(self) -> str:
        """Train to the end: "done", "stopped" or "diverged".

        It is stopped by a signal, `stop_after`, or where memory ends: `shortage` tells then, and
        what was done is saved.
        """
        outcome = CRASHED
        try:
            outcome = self._train()
        finally:
            if self.trainer.gradients is not None:
                self.trainer.gradients.forget()
            device_memory.release(self.trainer.settings.device)
            for notice in self.tracking.close(outcome):
                self.say(notice)
        return outcome

    def _train(self) -> str:
        s = self.trainer.settings
        measured: Measured | None
        budget = None if s.time is None else max(0.0, s.time - self.elapsed_before)
        with (
            Progress(s.steps, budget_s=budget, device=s.device) as progress,
            Interrupt() as interrupt,
            self.lock,
            self.metrics,
            self.samples,
        ):
            try:
                outcome, measured = self._steps(progress, interrupt)
            except MemoryError as error:
                outcome, measured = "stopped", None
                self.shortage = shortage.told(error, self.trainer)
            if self.shortage:  # here the arrays of the step are gone
                self.trainer.optimizer.zero_grad()
                device_memory.release(s.device)
            self._finish(progress, outcome, measured)
        return outcome

    def _steps(self, progress: Progress, interrupt: Interrupt) -> tuple[str, Measured | None]:
        """All steps up to the end or a stop: how it went, and the last validation."""
        while not self.finished():
            if interrupt.requested or self.trainer.counters.step == self.stop_after:
                return "stopped", None
            try:
                ended = self._one_step(progress, lambda: interrupt.requested)
            except Interrupted:
                continue
            if ended == "diverged":
                return ended, None
        measured = self.trainer.evaluate()
        return "done" if self._is_sound(measured) else "diverged", measured

    def _one_step(self, progress: Progress, stop: Callable[[], bool]) -> str | None:
        trainer, s, place = self.trainer, self.trainer.settings, self.trainer.counters
        begin = time.perf_counter()
        outcome = trainer.step(self.progress_after(), stop)
        seconds = time.perf_counter() - begin
        self.step_seconds = (
            seconds if not self.step_seconds else 0.9 * self.step_seconds + 0.1 * seconds
        )
        last = self.finished()
        due = last or place.step % (s.eval_every or 1) == 0
        measured = self._evaluate() if due and outcome.skipped is None else None
        if due or outcome.skipped or place.step % self.log_every == 0:
            self._record(outcome, measured)
        shown: dict[str, Any] = dict(measured or {})
        progress.update(
            place.step,
            loss=outcome.loss if math.isfinite(outcome.loss) else None,
            tokens_per_s=trainer.tokens_per_step / self.step_seconds,
            **shown,
        )
        for notice in self.tracking.notices():
            progress.message(notice)
        told = None if trainer.gradients is None else trainer.gradients.told()
        if told is not None:
            progress.message(f"step {place.step}: {told}")
        if outcome.skipped:
            progress.message(f"step {place.step}: skipped, {outcome.skipped}")
            if s.on_nan == "stop" or place.skipped_in_a_row >= s.max_skips:
                return "diverged"
        if measured:
            trainer.keep_if_best(measured)
        if due and outcome.skipped is None:
            self._sample(progress)
        sound = measured is None or math.isfinite(measured["val_loss"])
        if sound and (place.step % (s.save_every or 1) == 0 or last):
            self._save()
        return None

    def _evaluate(self) -> Measured | None:
        begin, trainer = time.perf_counter(), self.trainer
        measured = trainer.evaluate(trainer.evaluation_size or None)
        if measured:
            share = trainer.objective.validation_size / max(1, trainer.evaluation_size)
            self.reserve = (time.perf_counter() - begin) * (1 + share)
        return measured

    def _record(self, outcome: Step, measured: Measured | None) -> None:
        place, taken = self.trainer.counters, device_memory.held(self.trainer.settings.device)
        row = {
            "tokens": place.tokens,
            "loss": outcome.loss,
            **(measured or {}),
            "lr": outcome.lr,
            "grad_norm": outcome.grad_norm,
            "tokens_per_s": round(self.trainer.tokens_per_step / self.step_seconds, 1),
            "elapsed_s": round(self.elapsed, 3),
            "rss_mb": _rounded(memory().rss_mb),
            "device_mb": None if taken is None else round(taken / 1e6, 1),
        }
        self.metrics.append(step=place.step, **row, skipped=outcome.skipped)
        self.tracking.log(place.step, row)

    def _sample(self, progress: Progress) -> None:
        s, trainer = self.trainer.settings, self.trainer
        if not s.sample_tokens:
            return
        try:
            with trainer.averaged():
                found = trainer.with_room(
                    lambda: trainer.objective.sample(trainer.model, s.sample_tokens)
                )
        except ValueError as error:  # weights that overflowed give no probabilities
            progress.message(f"step {trainer.counters.step}: no sample ({error})")
            return
        if found is not None:
            self.samples.append(step=trainer.counters.step, prompt=found[0], text=found[1])
            progress.sample("".join(found))

    def _save(self) -> None:
        if self.trainer.save() is not None:
            self.saved_step = self.trainer.counters.step

    def _is_sound(self, measured: Measured | None) -> bool:
        """Whether the trained model can be used: finite weights that give a finite loss."""
        finite = measured is None or math.isfinite(measured["val_loss"])
        return finite and self.trainer.weights_are_finite()

    def _finish(self, progress: Progress, outcome: str, measured: Measured | None) -> None:
        trainer, place = self.trainer, self.trainer.counters
        sound = outcome != "diverged" and trainer.whole
        if sound and self.saved_step != place.step:
            self._save()
        if place.best_step is None and sound:
            trainer.keep_if_best(None)
        if measured:
            self._note_result(measured)
            objective = trainer.objective
            progress.message(
                f"validation on all {objective.validation_size:,} {objective.unit}: "
                f"{phrase(measured)}"
            )
        if trainer.out_of_patience:
            than = "" if place.best_step is None else f" than that of step {place.best_step:,}"
            progress.message(
                f"stopped after step {place.step:,}: {counted(place.no_better, 'validation')} in a "
                f"row found no better {plain(trainer.objective.best.metric)}{than}"
            )
        if place.skipped:
            progress.message(
                f"{place.skipped} of {place.step} steps were skipped (see metrics.jsonl)"
            )
        if self.metrics.path.stat().st_size:
            write_report(trainer.folder)
        ended = {"outcome": outcome, "step": place.step}
        hf.write_json(trainer.folder / INNER / OUTCOME, ended)

    def _note_result(self, measured: Measured) -> None:
        path, place = self.trainer.folder / INNER / "facts.json", self.trainer.counters
        content = hf.read_json(path)
        named = {
            "val_loss": f"validation loss on all {self.trainer.objective.unit}",
            "val_bpb": "bits per byte",
        }
        content["result"] = (
            {"last step": place.step}
            | {named.get(name, plain(name)): _recorded(value) for name, value in measured.items()}
            | {"model kept from step": place.best_step or place.step}
        )
        hf.write_json(path, content)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _recorded(loss: float) -> float | str:
    """Rounded; NaN and infinity, which JSON does not know, in words."""
    return round(loss, 4) if math.isfinite(loss) else str(loss)
