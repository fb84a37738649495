"""Running a model: cache, sampling, decoding."""

from minillm.generation.cache import Cache
from minillm.generation.decoding import generate, generate_ids, stream
from minillm.generation.sampling import Sampler

__all__ = ["Cache", "Sampler", "generate", "generate_ids", "stream"]
