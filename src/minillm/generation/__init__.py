"""Running a model: caches, sampling, decoding."""

from typing import TYPE_CHECKING

from minillm import lazily

if TYPE_CHECKING:
    from minillm.generation.beams import Hypothesis, beam_search
    from minillm.generation.cache import Cache, EncoderDecoderCache
    from minillm.generation.completions import Completion, Logprob, Piece
    from minillm.generation.contrastive import contrastive_search
    from minillm.generation.decoding import complete, generate, generate_ids, stream, stream_pieces
    from minillm.generation.engine import Engine
    from minillm.generation.options import Options
    from minillm.generation.reading import Reader, Reading
    from minillm.generation.sampling import Sampler, Seen
    from minillm.generation.speculative import Speculation, speculate
    from minillm.generation.tickets import Ticket

_WHERE = {
    "Hypothesis": "beams",
    "beam_search": "beams",
    "Cache": "cache",
    "EncoderDecoderCache": "cache",
    "Completion": "completions",
    "Logprob": "completions",
    "Piece": "completions",
    "contrastive_search": "contrastive",
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
    "Speculation": "speculative",
    "speculate": "speculative",
    "Ticket": "tickets",
}
__getattr__, __dir__ = lazily.names(__name__, _WHERE)

__all__ = [*_WHERE]
