"""The training loop: one step, validation, saving, resuming, and the guard against NaN."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy

from minillm import device_memory, devices, kernels
from minillm.arrays import Array, beside, manual_seed, numbers, to_numpy, xp_of
from minillm.models import folder as model_folder
from minillm.optim import (
    AdamW,
    AdamW8bit,
    Muon,
    Optimizer,
    clip_scale,
    decay_groups,
    grad_norm,
    muon_groups,
    scheduled,
)
from minillm.tensor import Tensor, no_grad
from minillm.training import state as states
from minillm.training.averaging import Average
from minillm.training.batches import Batches
from minillm.training.gradients import Gradients, Scale
from minillm.training.objective import Objective
from minillm.training.settings import LoopSettings
from minillm.training.state import Counters, State

KINDS: dict[str, Any] = {"adamw": AdamW, "adamw8bit": AdamW8bit, "muon": Muon}
REHEARSED, REHEARSED_SECONDS = 3, 0.5  # steps; more of a long run, but not for longer
TIMED_WARMUP = 0.05  # share of a run with a time budget


@dataclass
class Step:
    """What one step measured; `skipped` says why it changed nothing."""

    loss: float
    grad_norm: float
    lr: float
    skipped: str | None = None


class Interrupted(Exception):
    """A stop was asked for in the middle of a step; nothing of that step was kept."""


class Trainer:
    """Trains `model` for `objective` under `settings` that leave nothing open.

    The model is moved to the settings' device. Parameters that require no gradient stay as they
    are. `write` puts the best model into the
    folder. All randomness is a function of (seed, step): the order of samples by the objective,
    dropout through a generator restarted for each batch. So a state holds only weights, moments
    and counters, and evaluating or sampling in between changes nothing.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        settings: LoopSettings,
        folder: Path,
        write: Callable[[Path, Any], None] = model_folder.save_weights,
    ) -> None:
        if settings.most_bytes is not None:  # else the process's own limit stands
            device_memory.limit(settings.device, settings.most_bytes)
        self.model, self.objective, self.write = model.to(settings.device), objective, write
        self.settings: Any = settings  # resolved: of its choices only steps or time is None
        self.folder = folder
        self.counters = Counters()
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        kind, decay = KINDS[self.settings.optimizer], settings.weight_decay
        muon = kind is Muon
        groups = muon_groups(model, decay) if muon else decay_groups(self.trained.values(), decay)
        self.optimizer: Optimizer = kind(groups, betas=(settings.beta1, settings.beta2))
        self.average = None if settings.ema is None else Average(self.trained, settings.ema)
        if settings.patience is not None and not objective.validation_size:
            raise ValueError(
                f"patience: 0 {objective.unit} to validate on, some are needed; keep a share of "
                "the data for validation, or leave it out"
            )
        self.arena = kernels.Arena()
        self._batches = Batches(cast(int, settings.batch), settings.accumulate)
        self.gradients: Gradients | None = None  # of a GPU
        if devices.number_of(settings.device) is not None:
            frozen = [p for p in model.parameters() if not p.requires_grad]
            self.gradients = Gradients(settings.device, list(self.trained.values()), frozen)
        self.step_seconds = 0.0  # measured by `rehearse`
        self.whole = True  # but in an update: weights and moments belong to one step

    @property
    def tokens_per_step(self) -> float:
        """Tokens of a step, or their mean."""
        s = self.settings
        return s.batch * s.accumulate * self.objective.sample_tokens

    @property
    def evaluation_size(self) -> int:
        """What is validated on during the run, in the objective's unit; at its end all is."""
        whole = self.objective.validation_size
        return min(whole, self.settings.evaluated or whole)

    def rate(self, progress: float) -> float:
        """Learning rate at `progress` (0 to 1) of the run."""
        s = self.settings
        warmup = TIMED_WARMUP if s.steps is None else min(1.0, s.warmup / s.steps)
        return s.lr * scheduled(progress, s.schedule, warmup, s.final_lr)

    def step(self, progress: float, stop: Callable[[], bool] = lambda: False) -> Step:
        """One optimiser step over `accumulate` batches; Interrupted if `stop()` between them.

        The loss is the mean over all targets of the step, whatever batch they came in.
        """
        with self.arena.step():
            return self._step(progress, stop)

    def _step(self, progress: float, stop: Callable[[], bool]) -> Step:
        s, place = self.settings, self.counters
        batches = self._batches.take(self.objective, place.samples)
        lr, (losses, norm) = self.rate(progress), self._gradients(batches, stop, self._meanwhile)
        outcome = Step(sum(losses), norm, lr)
        if math.isfinite(outcome.loss) and math.isfinite(norm):
            self.whole = False
            with self._lending():
                self._update(lr, norm)
                if self.average is not None:
                    self.average.update(self.optimizer.steps)
            self.whole = True
            place.skipped_in_a_row = 0
        else:
            outcome.skipped = self._explain(losses, batches)
            place.skipped += 1
            place.skipped_in_a_row += 1
        self.optimizer.zero_grad()
        place.step += 1
        place.progress = progress
        place.samples += s.batch * s.accumulate
        place.tokens += sum(map(self.objective.tokens, batches))
        return outcome

    def _meanwhile(self) -> None:
        """What the host does while a GPU computes the gradients of a step."""
        if self.gradients is not None:
            ahead = self._batches.build_next(self.objective, self.counters.samples)
            self.gradients.staging.send(ahead)

    def _gradients(
        self,
        batches: list[Any],
        stop: Callable[[], bool],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> tuple[list[float], float]:
        """What each batch adds to the mean loss over all targets, and the norm of its gradient.

        The gradient is left in the model. Once all work is given to a GPU, before it is waited for,
        `meanwhile` is called.
        """
        count = sum(map(self.objective.targets, batches))
        if not count:
            samples = len(batches) * self.settings.batch
            raise ValueError(
                f"{self.settings.command}: no target in {samples} samples of a step, at least 1 is "
                "needed"
            )
        self.model.train()
        with (
            kernels.precision(self.settings.precision, self.settings.device),
            numpy.errstate(over="ignore", invalid="ignore"),  # step() judges the outcome
        ):
            losses = self.with_room(lambda: self._losses(batches, 1 / count, stop))
            self.with_room(meanwhile)
        norm = self.with_room(self._norm)
        return [loss / count for loss in numbers(losses)], norm

    def _norm(self) -> float:
        with self._lending():
            return grad_norm(self.optimizer.parameters())

    def _losses(self, batches: list[Any], scale: float, stop: Callable[[], bool]) -> list[Array]:
        """The loss of each batch; the sum of their gradients, times `scale`, is left."""
        self.optimizer.zero_grad()
        on_gpu = self.gradients
        parts = None if on_gpu is None else on_gpu.staging.take(batches)
        losses = []
        try:
            for part, batch in enumerate(batches):
                if stop():
                    raise Interrupted
                manual_seed(self.settings.seed, self.counters.step, part)
                if on_gpu is None or parts is None:
                    losses.append(self._gradient(batch, lambda dtype: numpy.asarray(scale, dtype)))
                else:
                    losses.append(on_gpu.find(self._gradient, batch, parts[part], scale))
        finally:
            if on_gpu is not None:
                on_gpu.staging.used()
        return losses

    def _gradient(self, batch: Any, scale: Scale) -> Array:
        loss = self.objective.loss(self.model, batch)
        loss.backward(scale(loss.dtype))
        return loss.data

    def with_room(self, compute: Callable[[], Any]) -> Any:
        """compute(), once more without the memory of graphs where a GPU has not enough."""
        try:
            return compute()
        except MemoryError:
            if self.gradients is None or not self.gradients.graphs:
                raise
        self.gradients.turn_off("there is not memory enough for them")
        return compute()

    def _update(self, lr: float, norm: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with kernels.precision(self.settings.precision, self.settings.device):
            self.optimizer.step(clip_scale(norm, self.settings.clip))

    def _explain(self, losses: list[float], batches: list[Any]) -> str:
        """Which parameter first went wrong, and the text of the batch."""
        place = next((n for n, loss in enumerate(losses) if not math.isfinite(loss)), 0)
        text = self.objective.excerpt(batches[place])
        named = self.trained.items()
        spoilt = [f"weight {name} holds a non-finite number" for name, p in named if _wild(p)]
        spoilt += [f"gradient of {name} is not finite" for name, p in named if _wild(p.grad)]
        what = spoilt[0] if spoilt else f"the loss is {sum(losses)}"
        return f"{what}; batch begins {text!r}"

    def rehearse(self) -> float:
        """Seconds of one step, measured on the first batch without changing a bit."""
        with self.arena.step():
            self._rehearsed_step()  # warms caches and allocators
            spent = [self._rehearsed_step()]
            wanted = max(REHEARSED, (self.settings.steps or 0) // 50)
            while len(spent) < wanted and sum(spent) < REHEARSED_SECONDS:
                spent.append(self._rehearsed_step())
        self.optimizer.zero_grad()
        self.step_seconds = statistics.median(spent)
        return self.step_seconds

    def _rehearsed_step(self) -> float:
        """Seconds of a step whose gradients are set to 0 and whose learning rate is 0."""
        s = self.settings
        begin = time.perf_counter()
        batches = [self.objective.batch(0, s.batch)]
        self._gradients(batches, lambda: False)
        gradients = time.perf_counter() - begin
        for parameter in self.trained.values():
            if parameter.grad is not None:
                parameter.grad.data[...] = 0
        begin = time.perf_counter()
        self.with_room(lambda: self._update(0.0, 0.0))
        devices.synchronize(s.device)
        update = time.perf_counter() - begin
        self.optimizer.steps = 0
        return gradients * s.accumulate + update

    def rehearse_evaluation(self) -> float:
        """Seconds for each unit of a validation; 0 without one."""
        s, objective = self.settings, self.objective
        unit = objective.sample_tokens if objective.unit == "tokens" else 1
        limit = min(self.evaluation_size, int(s.batch * unit))
        if not limit:
            return 0.0
        self.evaluate(limit)
        begin = time.perf_counter()
        self.evaluate(limit)
        return (time.perf_counter() - begin) / limit

    def evaluate(self, limit: int | None = None) -> Mapping[str, float] | None:
        """The metrics of the objective on `limit` units or all; None without validation data."""
        if not self.objective.validation_size:
            return None
        self.model.eval()
        precise = kernels.precision(self.settings.precision, self.settings.device)
        with self.averaged(), self.arena.step(), no_grad(), precise:
            return self.with_room(lambda: self._evaluated(limit))

    def _evaluated(self, limit: int | None) -> Mapping[str, float]:
        with self._lending():
            return self.objective.evaluate(self.model, limit)

    def _lending(self) -> AbstractContextManager[None]:
        """Inside it memory of graphs is used for what does not outlive it."""
        return nullcontext() if self.gradients is None else self.gradients.lending()

    def averaged(self) -> AbstractContextManager[None]:
        """Inside it the model has the weights that are validated and kept: averages, with --ema."""
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def out_of_patience(self) -> bool:
        """Whether so many validations in a row, as the settings allow, found nothing better."""
        patience = self.settings.patience
        return patience is not None and self.counters.no_better >= patience

    def keep_if_best(self, measured: Mapping[str, float] | None) -> bool:
        """Write the model if it is the best so far by the objective's metric, or there is none."""
        place, best = self.counters, self.objective.best
        if measured is not None:
            value = measured[best.metric]
            if not best.improves(value, place.best):
                place.no_better += 1
                return False
            place.best, place.best_step, place.no_better = value, place.step, 0
        elif not self.weights_are_finite():
            return False
        with self.averaged():
            self.write(self.folder, self.model)
        return True

    def weights_are_finite(self) -> bool:
        return not any(_wild(parameter) for parameter in self.trained.values())

    def save(self) -> Path | None:
        """Write the training state; None, and nothing written, if a weight is not finite."""
        if not self.weights_are_finite():
            return None
        arrays = {f"model/{name}": parameter.data for name, parameter in self.trained.items()}
        if self.average is not None:
            arrays |= {f"ema/{name}": array for name, array in self.average.arrays.items()}
        for name, arrays_of in zip(self._optimizer_names(), self.optimizer.state):
            for kind, array in arrays_of.items():
                arrays[f"{kind}/{name}"] = array
        arrays = {name: to_numpy(array) for name, array in arrays.items()}
        state = State(self.counters, self.optimizer.steps, self.objective.fingerprint, arrays)
        return states.save(self.folder / "training", state)

    def _optimizer_names(self) -> list[str]:
        names = {id(p): name for name, p in self.trained.items()}
        return [names[id(p)] for p in self.optimizer.parameters()]

    def restore(self, state: State) -> None:
        """Continue from `state`. ValueError if it belongs to other data or another model."""
        if state.fingerprint != self.objective.fingerprint:
            raise ValueError(
                f"resume: the state was trained on data {state.fingerprint[:12]}, "
                f"{self.objective.fingerprint[:12]} is in the run folder; the same data are needed"
            )
        weights = {
            name.removeprefix("model/"): array
            for name, array in state.arrays.items()
            if name.startswith("model/")
        }
        self.model.load_state_dict(weights, only=self.trained)
        if self.average is not None:
            for name, average in self.average.arrays.items():
                average[...] = beside(state.arrays[f"ema/{name}"], average)
        saved = [
            {kind: state.arrays[f"{kind}/{name}"] for kind in kept}
            for name, kept in zip(self._optimizer_names(), self.optimizer.state)
        ]
        self.optimizer.load_state_dict({"steps": state.optimizer_steps, "state": saved})
        self.counters = state.counters


def _wild(values: Tensor | None) -> bool:
    """Whether any number is infinite or NaN."""
    return values is not None and not bool(xp_of(values.data).isfinite(values.data).all())
