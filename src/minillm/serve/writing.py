"""The way of a request that writes, from its admission to the end of its answer."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minillm.generation import Completion, Piece
from minillm.generation.completions import Collector
from minillm.generation.memory import require_list
from minillm.serve.admission import enter, leave
from minillm.serve.asking import Job, drafted
from minillm.serve.catalogue import Served
from minillm.serve.errors import ApiError, from_options
from minillm.serve.events import ALIVE, DONE, ClientLeft, EventStream, event, unless_gone
from minillm.serve.follow import Follow
from minillm.serve.worker import Stopped

SILENCE = 15.0  # seconds after which a stream says that it is alive


class Writing:
    """A request that is being written, from its admission to its end."""

    def __init__(self, request: Request, job: Job) -> None:
        self.request, self.job = request, job
        self.settings = request.app.state.settings
        self.worker = request.app.state.catalogue.worker
        self.engine = job.served.writing()
        self.created = int(time.time())
        self.deadline: float = request.state.deadline
        self.follow: Follow | None = None
        self._entered = False

    async def begin(self) -> Follow:
        """Let it in and queue it; ApiError where there is no room, or for what cannot be done."""
        enter(self.request, self.engine)
        self._entered = True
        try:
            tickets = await asyncio.to_thread(self._tickets)
            self.follow = self.worker.follow(self.engine, tickets, self.job.served.name)
            self.request.state.follow = self.follow  # for the log
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            self.leave()
            if isinstance(error, Stopped):
                raise self.failed(error) from None
            raise from_options(error, self.job.names) from None
        except BaseException:
            self.leave()
            raise
        return self.follow

    def _tickets(self) -> list[Any]:
        job, options = self.job, drafted(self.job.served, self.job.options)
        found = [self.engine.ticket(prompt, options, scope=job.scope) for prompt in job.prompts]
        if not job.stream:
            require_list(found)
        return found

    def leave(self) -> None:
        """It is over, however it ended; what is not written is given up."""
        if self.follow is not None and not self.follow.done:
            self.follow.cancel()
        if self._entered:
            self._entered = False
            leave(self.request, self.engine)

    async def collected(self) -> list[list[Completion]]:
        """The texts of each prompt, once all are whole."""
        assert self.follow is not None
        collectors = {ticket: Collector(ticket) for ticket in self.follow.tickets}
        async for pieces in self.follow.pieces(self.deadline):
            for piece in pieces:
                collectors[piece.ticket].add(piece)
        return [collectors[ticket].completions() for ticket in self.follow.tickets]

    async def answer(self, build: Callable[[list[list[Completion]]], dict[str, Any]]) -> Response:
        """The whole answer, which `build` makes of the texts."""
        try:
            await self.begin()
            found = await unless_gone(self.request, self.collected())
            return JSONResponse(build(found))
        except ClientLeft:
            return Response(status_code=499)
        except (TimeoutError, ValueError, RuntimeError) as error:
            raise self.failed(error) from None
        finally:
            self.leave()

    async def streamed(
        self,
        chunks: Callable[[Piece], Sequence[Any]],
        first: Sequence[Any],
        usage: Callable[[], Any],
    ) -> Response:
        """The answer as events: `first`, then `chunks` of each piece; `usage` gives the last."""
        await self.begin()
        events = self._events(chunks, first, usage)
        return EventStream(events, self.leave)

    async def _events(
        self,
        chunks: Callable[[Piece], Sequence[Any]],
        first: Sequence[Any],
        usage: Callable[[], Any],
    ) -> AsyncIterator[bytes]:
        assert self.follow is not None
        if first:
            yield b"".join(map(event, first))
        try:
            async with aclosing(self.follow.pieces(self.deadline, SILENCE)) as given:
                async for pieces in given:
                    body = b"".join(event(chunk) for piece in pieces for chunk in chunks(piece))
                    if body or not pieces:
                        yield body or ALIVE
        except (TimeoutError, ValueError, RuntimeError) as error:
            refusal = self.failed(error)
            self.request.state.code = refusal.code
            yield event(refusal.content)
            return
        yield (event(usage()) if self.job.include_usage else b"") + DONE

    def failed(self, error: Exception) -> ApiError:
        """What went wrong on the way, for the client."""
        if isinstance(error, TimeoutError):
            return ApiError(
                504,
                f"not whole after {self.settings.request_seconds:g} s, as long as a request is "
                "given; a smaller max_tokens is needed",
                code="deadline_exceeded",
            )
        if isinstance(error, Stopped):
            return ApiError(503, str(error), code="server_ending")
        if isinstance(error, ValueError):
            refused = from_options(error, self.job.names)
            if refused.param is not None or str(error).startswith("constraint: "):
                return refused  # what was asked for turns out to be impossible
        return ApiError(500, " ".join(str(error).split()), code="generation_failed")

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens that were read and written, each once."""
        assert self.follow is not None
        return usage_of(
            sum(ticket.prompt_tokens for ticket in self.follow.tickets),
            sum(ticket.written for ticket in self.follow.tickets),
            sum(ticket.reused for ticket in self.follow.tickets),
        )

    @property
    def notices(self) -> dict[str, list[str]]:
        """What was left out of prompts, and options that change nothing: a field of the answer, or
        of the last chunk of each of its texts. Empty where there is nothing to tell."""
        assert self.follow is not None
        told = [*dict.fromkeys(note for one in self.follow.tickets for note in one.notices)]
        return {"notices": told} if told else {}


def usage_of(prompt: int, written: int, reused: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": reused},
    }


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"


def token_content(served: Served, id: int, logprob: float) -> dict[str, Any]:
    """A token of a chat's logprobs; -inf, which JSON lacks, as OpenAI's -9999."""
    tokenizer = served.tokenizer
    piece = tokenizer.token_bytes(id)
    return {
        "token": tokenizer.token_of(id),
        "logprob": finite(logprob),
        "bytes": list(piece),
        "id": id,
    }


def finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else -9999.0
