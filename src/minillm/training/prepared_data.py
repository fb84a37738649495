"""Training from a folder of `minillm data prepare`: its tokenizer and its shards, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from minillm.data import Dataset, Facts, Prepared
from minillm.data.preparation.prepared import MANIFEST
from minillm.data.windows import require_context
from minillm.tokenizers import Tokenizer
from minillm.training import plan
from minillm.training.options import flag
from minillm.training.run_folder import INNER, Say
from minillm.training.settings import Settings

SETTLED = (  # by the preparation
    "tokenizer", "vocab_size", "byte_fallback", "val_fraction", "encoding", "errors",
    "keep_newlines", "text_field",
)  # fmt: skip


def find(files: Sequence[str]) -> Prepared | None:
    """The prepared data that `files` name, if they do. ValueError for a folder beside others."""
    prepared = [name for name in files if (Path(name) / MANIFEST).is_file()]
    if not prepared:
        return None
    if len(files) > 1:
        raise ValueError(
            f"train: {prepared[0]} holds prepared data and {len(files) - 1} more "
            f"{'names are' if len(files) > 2 else 'name is'} given, it alone or texts are needed"
        )
    return Prepared.open(prepared[0])


def take(
    prepared: Prepared, settings: Settings, folder: Path, say: Say
) -> tuple[Tokenizer, Facts, Dataset, Settings]:
    """What a run needs of prepared data. ValueError for options that the preparation settled."""
    for option in fields(Settings):
        if option.name in SETTLED and getattr(settings, option.name) != option.default:
            raise ValueError(
                f"{flag(option.name)}: {prepared.folder} was prepared already, which settled it; "
                "leave it out, or prepare the data again"
            )
    facts = prepared.text
    say(
        f"{prepared.folder}: prepared data of {facts.documents:,} documents, {facts.lines:,} "
        f"lines, {facts.characters:,} characters"
    )
    tokenizer = prepared.tokenizer
    say(f"tokenizer: {tokenizer.kind}, vocabulary of {tokenizer.vocab_size:,}")
    dataset = prepared.dataset(tokenizer)
    for line in dataset.facts.lines_for_people():
        say(line)
    dataset.refer(folder / INNER)
    parts = [part for part in (dataset.train, dataset.val) if part is not None]
    if settings.context is not None:
        for part in parts:
            require_context(len(part), settings.context, "train")
    else:
        kind = "bpe" if tokenizer.kind not in ("char", "byte") else tokenizer.kind
        settings = plan.choose_context(settings, facts, kind)
        settings, cut = plan.fit_context(settings, min(len(part) for part in parts))
        if cut:
            say(cut)
    return tokenizer, facts, dataset, settings
