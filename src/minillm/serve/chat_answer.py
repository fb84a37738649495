"""What a chat is answered, whole or in chunks, in the form of OpenAI's chat.completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from minillm.generation import Completion, Piece
from minillm.generation.constraints.calls import Form
from minillm.serve.tools import Splitter, found_in
from minillm.serve.writing import Writing, new_id, token_content


class Answer:
    """The answer of a request; calls of tools, which the text holds, stand beside it."""

    def __init__(self, writing: Writing) -> None:
        self._writing, self._served = writing, writing.job.served
        calls = writing.job.options.calls
        self._form: Form | None = None if calls is None or not calls.tools else calls.form
        self._splitters: dict[int, Splitter] = {}
        self._head: Mapping[str, Any] = {
            "id": new_id("chatcmpl"),
            "created": writing.created,
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }

    async def whole(self) -> Response:
        return await self._writing.answer(self._content)

    async def streamed(self) -> Response:
        first = [
            self._chunk(index, {"role": "assistant", "content": ""})
            for index in range(self._writing.job.options.n)
        ]
        return await self._writing.streamed(self._chunks, first, self._usage)

    def _content(self, found: list[list[Completion]]) -> dict[str, Any]:
        choices = [self._choice(index, one) for index, one in enumerate(found[0])]
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._writing.usage,
            "seed": self._writing.job.options.seed,
            **self._writing.notices,
        }

    def _choice(self, index: int, one: Completion) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": one.text, "refusal": None}
        reason = one.finish_reason
        if self._form is not None:
            found = found_in(one.text, self._form)
            if found.calls:
                message |= {"content": found.content or None, "tool_calls": found.calls}
                reason = "tool_calls"
        logprobs = None
        if one.logprobs is not None:
            tokens = [*one.logprobs, *([] if one.end is None else [one.end])]
            logprobs = self._logprobs([self._token(*token) for token in tokens])
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    def _chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks of a piece: what it adds, and the end of a text by itself."""
        found: list[dict[str, Any]] = []
        logprobs, text, reason = None, piece.text, piece.finish_reason
        id = piece.end if piece.id is None else piece.id
        if self._writing.job.options.logprobs is not None and id is not None:
            logprobs = self._logprobs([self._token(id, piece.logprob, piece.top or [])])
        calls: list[dict[str, Any]] = []
        if self._form is not None:
            splitter = self._splitters.setdefault(piece.index, Splitter(self._form))
            text = splitter.push(text)
            if reason is not None:
                rest = splitter.rest()
                text, calls = text + rest.content, rest.calls
                reason = "tool_calls" if calls else reason
        if text or logprobs is not None:
            found.append(self._chunk(piece.index, {"content": text}, logprobs))
        for place, call in enumerate(calls):
            found.append(self._chunk(piece.index, {"tool_calls": [{"index": place, **call}]}))
        if reason is not None:
            found.append(self._chunk(piece.index, {}, reason=reason))
        return found

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        more: dict[str, Any] = {"usage": None} if self._writing.job.include_usage else {}
        if reason is not None:
            more |= self._writing.notices
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}

    def _usage(self) -> dict[str, Any]:
        usage = self._writing.usage
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _token(self, id: int, logprob: float | None, top: list[tuple[int, float]]) -> Any:
        assert logprob is not None
        others = [token_content(self._served, other, value) for other, value in top]
        return {**token_content(self._served, id, logprob), "top_logprobs": others}

    @staticmethod
    def _logprobs(tokens: list[Any]) -> dict[str, Any]:
        return {"content": tokens, "refusal": None}
