"""Running a model: caches, sampling, decoding."""

from typing import TYPE_CHECKING

from minillm import lazily

if TYPE_CHECKING:
    from minillm.generation.cache import Cache, EncoderDecoderCache
    from minillm.generation.completions import Completion, Logprob, Piece
    from minillm.generation.decoding import complete, generate, generate_ids, stream, stream_pieces
    from minillm.generation.engine import Engine
    from minillm.generation.options import Options
    from minillm.generation.reading import Reader, Reading
    from minillm.generation.sampling import Sampler, Seen
    from minillm.generation.tickets import Ticket

_WHERE = {
    "Cache": "cache",
    "EncoderDecoderCache": "cache",
    "Completion": "completions",
    "Logprob": "completions",
    "Piece": "completions",
    "complete": "decoding",
    "generate": "decoding",
    "generate_ids": "decoding",
    "stream": "decoding",
    "stream_pieces": "decoding",
    "Engine": "engine",
    "Options": "options",
    "Reader": "reading",
    "Reading": "reading",
    "Sampler": "sampling",
    "Seen": "sampling",
    "Ticket": "tickets",
}
__getattr__, __dir__ = lazily.names(__name__, _WHERE)

__all__ = [*_WHERE]
