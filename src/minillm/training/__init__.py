"""Training: plan, loop, checkpoints, resume, records."""

from minillm.training.settings import Settings
from minillm.training.trainer import Trainer

__all__ = ["Settings", "Trainer"]
