"""What the gates of a run found out of models that they share: each export's gate begins at the trained model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Kept:
    """Findings by what they are of, while a run lasts. `about`: the rows that are asked, and how."""

    about: Hashable = ()
    found: dict[Hashable, Any] = field(default_factory=dict)

    def of(self, *about: Hashable) -> Kept:
        """The same findings, of other rows or asked in another way."""
        return replace(self, about=about)

    def once(self, what: str, files: Sequence[Path], find: Callable[[], Found]) -> Found:
        """What `find` finds out of a model in some files, the first time that it is asked for."""
        key = (self.about, what, tuple(files))
        if key not in self.found:
            self.found[key] = find()
        return cast(Found, self.found[key])
