"""What a scorer is: a function from pictures and prompts to readings, with a name and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import InterplayError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Reading:
    """One picture's score. value: the main figure, higher is better, None where the prompt gives nothing to go by;
    parts: further figures by name; notes: what a person wants to see with it (the caption, the answers).
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scorer:
    """name: column of the main figure ("clip"); needs: what it reads pictures with, for tables ("CLIPModel of FOLDER");
    parts: names of the further figures, each a column ``name_part``; measure: pictures and prompts to readings.
    """

    name: str
    needs: str
    parts: tuple[str, ...]
    measure: Callable[[Sequence[Image], Sequence[str]], list[Reading]]

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[Reading]:
        """One reading for each picture, held against the prompt of the same place.

        Raises:
            InterplayError: there are not as many prompts as pictures.
        """
        if len(images) != len(prompts):
            raise InterplayError(
                f"'{self.name}' was given {len(images)} pictures and {len(prompts)} prompts; give one for each."
            )
        return self.measure([image.convert("RGB") for image in images], list(prompts)) if images else []

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all its figures."""
        return (self.name, *(f"{self.name}_{part}" for part in self.parts))

    def cells(self, reading: Reading) -> dict[str, float | None]:
        """A reading by column."""
        return {self.name: reading.value, **{f"{self.name}_{part}": reading.parts.get(part) for part in self.parts}}
