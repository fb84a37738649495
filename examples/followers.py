"""Write what readers read next, from a hidden process: `python examples/followers.py OUT_FOLDER`.

Items are the parts of series, `s07-03` being part 3 of series 7. A reader follows three series at
once, which nobody is told. At each step

- with probability 0.04 one of the three is given up for another, drawn by Zipf's law: its first
  part comes next;
- else one of the three is drawn, and with probability 0.85 its next part is read (after the last
  one the first again), otherwise any part of it, drawn evenly.

So the last item tells little of the next: the reader has two other series, and how far he has read
in them is further back. Of each reader's sequence the last item is for testing: `train.jsonl` has
the sequences without it, `test.jsonl` with it.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

SERIES, PARTS, FOLLOWED = 20, 25, 3
CHANGES, GOES_ON = 0.04, 0.85
SHORTEST, LONGEST = 10, 40


def item(series: int, part: int) -> str:
    return f"s{series:02}-{part:02}"


def sequence(draw: random.Random) -> Iterator[str]:
    """The items of one reader."""
    weights = [1 / (rank + 1) for rank in range(SERIES)]
    followed: dict[int, int] = {}  # series to the part read last
    while len(followed) < FOLLOWED:
        followed.setdefault(draw.choices(range(SERIES), weights)[0], draw.randrange(PARTS))
    for _ in range(draw.randint(SHORTEST, LONGEST)):
        series = draw.choice(list(followed))
        if draw.random() < CHANGES:
            del followed[series]
            others = [other for other in range(SERIES) if other not in followed]
            series = draw.choices(others, [weights[other] for other in others])[0]
            followed[series] = 0
        elif draw.random() < GOES_ON:
            followed[series] = (followed[series] + 1) % PARTS
        else:
            followed[series] = draw.randrange(PARTS)
        yield item(series, followed[series])


def sequences(count: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    return [list(sequence(draw)) for _ in range(count)]


def write(folder: Path, found: list[list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, end in (("train.jsonl", -1), ("test.jsonl", None)):
        lines = [json.dumps({"text": " ".join(items[:end])}) + "\n" for items in found]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for train.jsonl and test.jsonl")
    parser.add_argument("--readers", type=int, default=4000, help="sequences (4000)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    write(asked.out, sequences(asked.readers, asked.seed))


if __name__ == "__main__":
    main()
