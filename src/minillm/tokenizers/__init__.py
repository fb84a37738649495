"""Text to token ids and back: bytes, characters, and byte-level BPE.

    tokenizer = train("bpe", texts, vocab_size=4096)
    tokenizer.save("model")
    tokenizer = load("model")
    tokenizer.decode(tokenizer.encode(text)) == text

"byte" and "char" are the other kinds. What `save` writes, Hugging Face's `tokenizers` opens.
"""

from .bpe import BPETokenizer
from .byte import ByteTokenizer
from .char import CharTokenizer
from .loading import load
from .stream import StreamDecoder
from .tokenizer import Tokenizer, id_dtype
from .training import train

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "id_dtype",
    "load",
    "train",
]
