"""What encoders are tuned for, by name."""

from __future__ import annotations

from minillm.tasks.answering import Answering
from minillm.tasks.classification import Classification
from minillm.tasks.contrast import Likeness
from minillm.tasks.tagging import Tagging
from minillm.tasks.task import Task, Work

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Tagging(), Answering())}
WORKS: dict[str, Work] = TASKS | {Likeness.name: Likeness()}
