"""From logits to one token: named steps in one order, and the likelihood of what was chosen."""

from minillm.generation.sampling.choosing import draw
from minillm.generation.sampling.likelihood import (
    NotFinite,
    best_ids,
    best_of,
    log_probabilities,
    top_log_probabilities,
)
from minillm.generation.sampling.sampler import Explained, Sampler
from minillm.generation.sampling.seen import Seen
from minillm.generation.sampling.steps import GREEDY_BELOW, Step

__all__ = [
    "GREEDY_BELOW",
    "Explained",
    "NotFinite",
    "Sampler",
    "Seen",
    "Step",
    "best_ids",
    "best_of",
    "draw",
    "log_probabilities",
    "top_log_probabilities",
]
