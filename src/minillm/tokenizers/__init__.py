"""Text to token ids and back: bytes, characters, BPE, WordPiece, Unigram.

    tokenizer = train("bpe", texts, vocab_size=4096)
    tokenizer.save("model")
    tokenizer = load("model")
    tokenizer.decode(tokenizer.encode(text)) == text

"byte" and "char" are other kinds that can be trained. `load` also opens what others published, and
`from_gguf` what lies in a GGUF file. What `save` writes, Hugging Face's `tokenizers` opens.
"""

from typing import TYPE_CHECKING

from minillm import lazily

if TYPE_CHECKING:
    from minillm.tokenizers.bpe import BPETokenizer
    from minillm.tokenizers.byte import ByteTokenizer
    from minillm.tokenizers.char import CharTokenizer
    from minillm.tokenizers.gguf_documents import from_gguf
    from minillm.tokenizers.gguf_vocabulary import to_gguf
    from minillm.tokenizers.loading import from_document, load
    from minillm.tokenizers.pipeline import PipelineTokenizer
    from minillm.tokenizers.sentencepiece import SentencePieceTokenizer
    from minillm.tokenizers.source_target import SourceTargetTokenizer
    from minillm.tokenizers.stream import StreamDecoder
    from minillm.tokenizers.tokenizer import Tokenizer, id_dtype
    from minillm.tokenizers.training import train

_WHERE = {
    "BPETokenizer": "bpe",
    "ByteTokenizer": "byte",
    "CharTokenizer": "char",
    "from_gguf": "gguf_documents",
    "to_gguf": "gguf_vocabulary",
    "from_document": "loading",
    "load": "loading",
    "PipelineTokenizer": "pipeline",
    "SentencePieceTokenizer": "sentencepiece",
    "SourceTargetTokenizer": "source_target",
    "StreamDecoder": "stream",
    "Tokenizer": "tokenizer",
    "id_dtype": "tokenizer",
    "train": "training",
}
__getattr__, __dir__ = lazily.names(__name__, _WHERE)

__all__ = [*_WHERE]
