"""Running a model: caches, sampling, decoding."""

from minillm.generation.cache import Cache, EncoderDecoderCache
from minillm.generation.completions import Completion, Logprob, Piece
from minillm.generation.decoding import complete, generate, generate_ids, stream, stream_pieces
from minillm.generation.engine import Engine
from minillm.generation.options import Options
from minillm.generation.reading import Reader, Reading
from minillm.generation.sampling import Sampler, Seen
from minillm.generation.tickets import Ticket

__all__ = [
    "Cache",
    "Completion",
    "EncoderDecoderCache",
    "Engine",
    "Logprob",
    "Options",
    "Piece",
    "Reader",
    "Reading",
    "Sampler",
    "Seen",
    "Ticket",
    "complete",
    "generate",
    "generate_ids",
    "stream",
    "stream_pieces",
]
