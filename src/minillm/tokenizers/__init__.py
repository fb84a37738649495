"""Text to token ids and back: bytes, characters, BPE, WordPiece, Unigram.

    tokenizer = train("bpe", texts, vocab_size=4096)
    tokenizer.save("model")
    tokenizer = load("model")
    tokenizer.decode(tokenizer.encode(text)) == text

"byte" and "char" are other kinds that can be trained. `load` also opens what others published, and
`from_gguf` what lies in a GGUF file. What `save` writes, Hugging Face's `tokenizers` opens.
"""

from .bpe import BPETokenizer
from .byte import ByteTokenizer
from .char import CharTokenizer
from .gguf_documents import from_gguf
from .gguf_vocabulary import to_gguf
from .loading import from_document, load
from .pipeline import PipelineTokenizer
from .sentencepiece import SentencePieceTokenizer
from .source_target import SourceTargetTokenizer
from .stream import StreamDecoder
from .tokenizer import Tokenizer, id_dtype
from .training import train

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "PipelineTokenizer",
    "SentencePieceTokenizer",
    "SourceTargetTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "from_document",
    "from_gguf",
    "id_dtype",
    "load",
    "to_gguf",
    "train",
]
