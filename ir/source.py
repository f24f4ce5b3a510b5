"""Where in the user's program a value was made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """User source position and module path of a node (``layer1.0.conv1``); empty fields are unknown."""

    file: str = ""
    line: int = 0
    module: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        return " ".join(p for p in (self.module, f"({place})" if place else "") if p)


UNKNOWN = Source()
