"""What a preparation is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .cleaning import FORMS
from .minhash import THRESHOLD

DEDUP = ("none", "exact", "near")


@dataclass(frozen=True)
class Options:
    """`near` is the least similarity of near duplicates; 0 ... 1 like `min_quality`."""

    normalize: str = "nfc"
    drop_boilerplate: bool = False
    scrub_pii: bool = False
    dedup: str = "none"
    near: float = THRESHOLD
    min_quality: float = 0.0
    val_fraction: float = 0.1
    shard_tokens: int = 100_000_000

    def __post_init__(self) -> None:
        for name, value, known in (
            ("normalize", self.normalize, FORMS),
            ("dedup", self.dedup, DEDUP),
        ):
            if value not in known:
                raise ValueError(f"{name}: {value!r}, one of {', '.join(known)} is needed")
        if not 0 <= self.min_quality <= 1:
            raise ValueError(f"min-quality: {self.min_quality}, 0 to 1 is needed")
        if not 0.5 <= self.near <= 1:
            raise ValueError(f"near: {self.near}, 0.5 to 1 is needed")
        if not 0 <= self.val_fraction <= 0.9:
            raise ValueError(f"val-fraction: {self.val_fraction}, 0 to 0.9 is needed")
        if self.shard_tokens < 1:
            raise ValueError(f"shard-tokens: {self.shard_tokens}, 1 or more is needed")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
