"""Models for lm-evaluation-harness (extra `eval`), under the name "minillm".

python -m minillm.tasks.harness --model minillm --model_args path=MODEL --tasks TASK
is the command `lm_eval` with that name known to it; in Python `register()` makes it known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from minillm import kernels
from minillm.generation.continuations import continuations, continued_ids
from minillm.generation.engine import Engine
from minillm.generation.options import Options
from minillm.generation.reading import Reader
from minillm.generation.scoring import require_decoder, score
from minillm.models import adapter as adapters
from minillm.models import folder
from minillm.words import meant

WRITTEN, AT_ONCE = 256, 8  # tokens of an answer, and answers side by side, unless asked for
MOST = ("max_gen_toks", "max_new_tokens", "max_tokens")  # as tasks call it
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


class HarnessModel:
    """What the harness asks of a model.

    path, adapter      as MODEL and --adapter of the commands
    context, stride    of whole texts (loglikelihood_rolling), as of `minillm score`, with the token
                       that begins or ends texts before each window
    batch_size         answers that are written side by side
    max_tokens         of an answer where the task says nothing
    device             "cpu", "cuda" or "cuda:N"; as the harness's option --device
    """

    def __init__(
        self,
        path: str,
        adapter: str | None = None,
        context: int | None = None,
        stride: int | None = None,
        batch_size: int | str | None = None,
        max_tokens: int = WRITTEN,
        threads: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        named = [name for name, value in unknown.items() if value is not None]
        if named:
            known = ("path", "adapter", "context", "stride", "max_tokens", "threads", "device")
            raise ValueError(f"harness: unknown argument {named[0]!r}{meant(named[0], known)}")
        if threads is not None:
            kernels.set_threads(int(threads))
        self.model, self.own_tokenizer = folder.load(path, device=device)
        require_decoder(self.model, "harness")
        if adapter is not None:
            adapters.load(self.model, adapter, folder.logits_of(self.model))
        self.path, self.context, self.stride = path, context, stride
        self.max_tokens = int(max_tokens)
        self.at_once = int(str(batch_size)) if str(batch_size).isdecimal() else AT_ONCE
        self.reader = Reader(self.model)

    @property
    def tokenizer_name(self) -> str:
        return self.path

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Of (context, continuation): the log-probability, and whether greedy decoding gives it.

        Continuations of one context that follow each other are read after reading it once.
        """
        pairs = [continued_ids(self.own_tokenizer, *request.args) for request in requests]
        found: list[tuple[float, bool]] = []
        for context, some in groupby(self._told(pairs, disable_tqdm), key=lambda pair: pair[0]):
            candidates = [ids for _, ids in some]
            for one in continuations(self.reader, context, candidates):
                found.append((one.total, one.greedy))
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of whole texts."""
        led = self.own_tokenizer.role_ids.get("bos", self.own_tokenizer.eos_id) is not None
        found = []
        for request in self._told(requests, disable_tqdm):
            (text,) = request.args
            scored = text and score(
                self.model,
                self.own_tokenizer,
                text,
                context=self.context,
                stride=self.stride,
                bos="yes" if led else "no",
                command="harness",
            )
            found.append(scored.total if scored else 0.0)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Of (context, options): what is written until one of the stop strings."""
        engine = Engine(self.model, self.own_tokenizer, max_batch=self.at_once)
        found: list[str] = []
        told = self._told(requests, disable_tqdm)
        for options, some in groupby(told, key=lambda request: self._options(request.args[1])):
            prompts = [request.args[0] for request in some]
            for start in range(0, len(prompts), self.at_once):
                batch = prompts[start : start + self.at_once]
                found += [written.text for written in engine.complete(batch, options)]
        return found

    def _options(self, given: Mapping[str, Any]) -> Options:
        """The harness's words for how to write in ours; ValueError for one that is not known."""
        rest = dict(given)
        until = rest.pop("until", None) or []
        stop = (until,) if isinstance(until, str) else tuple(until)
        most = next((rest.pop(name) for name in MOST if name in rest), self.max_tokens)
        sampled = bool(rest.pop("do_sample", rest.get("temperature", 0)))
        for name in rest:
            if name not in SAMPLING:
                raise ValueError(
                    f"harness: generate_until: unknown {name!r}{meant(name, SAMPLING)}"
                )
        if not sampled:  # the others choose among tokens that are drawn
            kept = ("repetition_penalty", "seed")
            rest = {name: rest[name] for name in kept if name in rest} | {"temperature": 0.0}
        return Options(stop=stop, max_tokens=int(most), overflow="truncate", **rest)

    def _told(self, items: Iterable[Any], quiet: bool) -> Iterator[Any]:
        from tqdm import tqdm

        return iter(tqdm(items, desc="minillm", disable=quiet))


def register() -> Any:
    """Make the name "minillm" known to the harness; the class. ImportError without lm_eval."""
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise ImportError(
            "harness: lm_eval is not installed, it is needed; pip install 'minillm[eval]'"
        ) from error
    if "minillm" not in model_registry:
        model_registry.register("minillm")(type("Minillm", (HarnessModel, LM), {}))
    return model_registry.get("minillm")


def with_device(words: list[str]) -> list[str]:
    """Arguments of lm_eval that leave no device open: it would take "cuda:0" (0.4.13).

    Those of a file (--config) are left to what is written there.
    """
    given = {word.split("=")[0] for word in words}
    if not given & {"--model", "-M"} or given & {"--device", "--config", "-C"}:
        return words
    return [*words, "--device", kernels.get_default_device()]


def main() -> None:
    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv[1:] = with_device(sys.argv[1:])
    cli_evaluate()


if __name__ == "__main__":
    main()
