"""Summaries by a model against the first sentence: ROUGE-L, with an interval from the bootstrap.

    python bench/summaries.py MODEL TEST.jsonl [--adapter DIR] [--count N]

Each row has a `source` and `targets`; the best of several targets counts. Needs rouge-score.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

from minillm.cli.adapted import load
from minillm.generation import complete

INSTRUCTION = "Summarize this abstract in one sentence."
ROWS = 8  # written side by side


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s+", text.strip(), maxsplit=1)[0]


def written(model, tokenizer, sources: list[str], tokens: int) -> list[str]:
    prompts = []
    for source in sources:
        message = {"role": "user", "content": f"{INSTRUCTION}\n\n{source}"}
        prompts.append(tokenizer.apply_chat_template([message], add_generation_prompt=True))
    found: list[str] = []
    for at in range(0, len(prompts), ROWS):
        some = complete(
            model, tokenizer, prompts[at : at + ROWS], max_tokens=tokens, temperature=0.0
        )
        found += [one.text for one in some]
        print(f"{len(found)} of {len(prompts)}", flush=True)
    return found


def scored(texts: list[str], rows: list[dict]) -> np.ndarray:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return np.array(
        [
            max(scorer.score(target, text)["rougeL"].fmeasure for target in row["targets"])
            for text, row in zip(texts, rows)
        ]
    )


def interval(values: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("test")
    parser.add_argument("--adapter")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    lines = Path(arguments.test).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: arguments.count]]
    model, tokenizer = load(arguments.model, arguments.adapter)
    sources = [row["source"] for row in rows]
    lead = scored([first_sentence(source) for source in sources], rows)
    own = scored(written(model, tokenizer, sources, arguments.tokens), rows)
    print(f"lead-1   ROUGE-L {interval(lead)}")
    print(f"model    ROUGE-L {interval(own)}")
    print(f"model - lead-1   {interval(own - lead)} on {len(rows)} abstracts")


if __name__ == "__main__":
    main()
