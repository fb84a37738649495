"""Running a model: cache, sampling, decoding."""

from minillm.generation.cache import Cache
from minillm.generation.decoding import generate, generate_ids, stream
from minillm.generation.encoder_decoder import EncoderDecoderCache
from minillm.generation.reading import Reader, Reading
from minillm.generation.sampling import Sampler, Seen

__all__ = [
    "Cache",
    "EncoderDecoderCache",
    "Reader",
    "Reading",
    "Sampler",
    "Seen",
    "generate",
    "generate_ids",
    "stream",
]
