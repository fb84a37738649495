"""Stop strings in text that arrives piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class StopText:
    """Ends a text before the first stop string in it, however the text is cut into pieces.

    What `push` and a final `flush` return, joined, is the text up to that stop string, or all of
    it. First is the one whose last character comes first; of several that end there, the longest.
    Held back is exactly the longest end of the text that a stop string begins with: always shorter
    than the longest of them. Time and memory are linear in the stop strings and the text (Aho and
    Corasick 1975).

        stop = StopText(["\\nUser:"])
        stop.push("Fine.\\nUs")  # "Fine."
        stop.push("ually")       # "\\nUsually"

    Raises ValueError for an empty stop string, TypeError for what is not a sequence of str.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        if isinstance(stops, str):
            raise TypeError("stop: a str, a sequence of str is needed")
        self._next: list[dict[str, int]] = [{}]  # states are beginnings of stop strings
        self._word = [""]  # of each state, a stop string that begins with it, and its length
        self._depth = [0]
        self._match: list[str | None] = [None]  # the longest stop string that ends here
        for stop in stops:
            self._add(stop)
        self._shorter = self._suffixes()
        self._state = 0
        self.found: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; `found` is the one."""
        return self.found is not None

    def push(self, text: str) -> str:
        """What of the text may be shown now; "" once it has stopped."""
        if self.found is not None:
            return ""
        held, before = self._depth[self._state], self._word[self._state]
        state = self._state
        for place, char in enumerate(text, held + 1):
            while state and char not in self._next[state]:
                state = self._shorter[state]
            state = self._next[state].get(char, 0)
            self.found = self._match[state]
            if self.found is not None:
                self._state, shown = 0, place - len(self.found)
                break
        else:
            self._state, shown = state, held + len(text) - self._depth[state]
        return before[: min(held, shown)] + text[: max(0, shown - held)]

    def flush(self) -> str:
        """What was held back: the text is at its end, so no stop string was begun."""
        held = self._word[self._state][: self._depth[self._state]]
        self._state = 0
        return held

    def _add(self, stop: str) -> None:
        if not isinstance(stop, str):
            raise TypeError(f"stop: {type(stop).__name__}, str is needed")
        if not stop:
            raise ValueError("stop: an empty string, at least 1 character is needed")
        state = 0
        for depth, char in enumerate(stop, 1):
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._word.append(stop)
                self._depth.append(depth)
                self._match.append(None)
            state = self._next[state][char]
        self._match[state] = stop

    def _suffixes(self) -> list[int]:
        """Of each state the longest other state that it ends with; fills in the matches."""
        shorter = [0] * len(self._next)
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            self._match[state] = self._match[state] or self._match[shorter[state]]
            for char, longer in self._next[state].items():
                other = shorter[state]
                while other and char not in self._next[other]:
                    other = shorter[other]
                shorter[longer] = self._next[other].get(char, 0)
                waiting.append(longer)
        return shorter
