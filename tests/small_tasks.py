"""Small encoders with the head of a task and a WordPiece tokenizer, as folders."""

from pathlib import Path

from minillm.formats import hf
from minillm.models.folder import save_model
from small_encoders import small

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] a b c d e f g h ##s ##a ##b good bad film was the it who built in "
    "1889 tower paris rome . , ? eiffel"
).split()
ARCHITECTURES = {
    "classify": "ForSequenceClassification",
    "tag": "ForTokenClassification",
    "qa": "ForQuestionAnswering",
}
LABELS = {
    "classify": ("no", "perhaps", "yes"),
    "tag": ("O", "B-place", "I-place", "B-thing", "I-thing"),
    "qa": ("first", "last"),
}


def word_piece(words, truncation=None):
    """The content of tokenizer.json of an uncased BERT with these words."""
    cls, sep = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    first, second = ({"Sequence": {"id": name, "type_id": k}} for k, name in enumerate("AB"))
    return {
        "version": "1.0",
        "truncation": truncation,
        "padding": None,
        "added_tokens": [
            {"id": place, "content": token, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for place, token in enumerate(words[:4])
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, first, sep],
            "pair": [cls, first, sep, second, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [words.index(token)], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: place for place, token in enumerate(words)},
        },
    }


def folder(place: Path, task: str | None = None, context: int = 24, **options) -> Path:
    """A small BERT with a head for `task`, or none."""
    place.mkdir(parents=True, exist_ok=True)
    architecture = "Model" if task is None else ARCHITECTURES[task]
    labels = {} if task is None else {"labels": LABELS[task]}
    sizes = {"vocab_size": len(WORDS), "max_position_embeddings": context, "pad_token_id": 0}
    save_model(place, small("bert", architecture, **sizes | labels | options))
    hf.write_json(place / "tokenizer.json", word_piece(WORDS))
    return place
