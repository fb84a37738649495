"""Training: plan, loop, checkpoints, resume, records."""

from typing import TYPE_CHECKING

from minillm import lazily

if TYPE_CHECKING:
    from minillm.training.settings import Settings
    from minillm.training.trainer import Trainer

_WHERE = {
    "Settings": "settings",
    "Trainer": "trainer",
}
__getattr__, __dir__ = lazily.names(__name__, _WHERE)

__all__ = [*_WHERE]
