"""A small encoder-decoder with the tokenizer of translation, as a folder, and pairs of texts."""

from pathlib import Path

from minillm.models import T5, T5Config
from minillm.models.folder import save_model
from minillm.tasks.translation import vocabulary

PAIRS = [
    ("I am here.", "Je suis ici."),
    ("You are here.", "Tu es ici."),
    ("I am there.", "Je suis là."),
    ("You are there.", "Tu es là."),
    ("I was here.", "J'étais ici."),
    ("You were here.", "Tu étais ici."),
    ("Who is here?", "Qui est ici ?"),
    ("Who was there?", "Qui était là ?"),
    ("I see the dog.", "Je vois le chien."),
    ("You see the cat.", "Tu vois le chat."),
    ("The dog is big.", "Le chien est grand."),
    ("The cat is small.", "Le chat est petit."),
    ("The big dog sees me.", "Le grand chien me voit."),
    ("The small cat sees you.", "Le petit chat te voit."),
    ("Thanks.", "Merci."),
    ("Good night.", "Bonne nuit."),
    ("Yes, I see.", "Oui, je vois."),
    ("No, you see.", "Non, tu vois."),
    ("Where is the cat?", "Où est le chat ?"),
    ("Where was I?", "Où étais-je ?"),
]


def written(path: Path, rows=PAIRS, names=("source", "target")) -> Path:
    """The rows as a .tsv, under a line of names unless there are none."""
    lines = ([names] if names else []) + list(rows)
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def tokenizer(size=300, rows=PAIRS):
    return vocabulary.learn("bpe", [f"{text}\n" for row in rows for text in row], size)


def model(known, **options):
    pad = known.role_ids["pad"]
    sizes = {"vocab_size": known.vocab_size, "d_model": 32, "d_kv": 16, "d_ff": 48,
             "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}  # fmt: skip
    tokens = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": known.eos_id}
    return T5(T5Config(**sizes | tokens | options))


def folder(place: Path, **options) -> Path:
    known = tokenizer()
    save_model(place, model(known, **options), known)
    return place
