"""The tasks on encoders by name."""

from __future__ import annotations

from minillm.tasks.answering import Answering
from minillm.tasks.classification import Classification
from minillm.tasks.tagging import Tagging
from minillm.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Tagging(), Answering())}
