"""Which rows each optimiser step shows: a pure function of (seed, step), so that a resumed run sees what it would have.

Every stream walks through its own permutations, one per epoch of that stream. The forget set sets the pace; retain rows
are drawn independently, so that the whole retain set is covered in turn whatever the forget set's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class StreamPlan:
    """One stream's walk through its rows."""

    name: str
    num_rows: int
    batch_size: int
    seed: int
    whole_epochs: bool
    """Whether an epoch's last batch may be short (the stream that sets the pace); else batches run over the border."""

    def at(self, step: int) -> list[tuple[int, int]]:
        """``(row, epoch)`` pairs of one step."""
        if self.whole_epochs:
            epoch, place = divmod(step, self.steps_per_epoch)
            first = place * self.batch_size
            return [(int(row), epoch) for row in self._permutation(epoch)[first : first + self.batch_size]]
        drawn = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [(int(self._permutation(i // self.num_rows)[i % self.num_rows]), i // self.num_rows) for i in drawn]

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every row was shown once."""
        return math.ceil(self.num_rows / self.batch_size)

    def _permutation(self, epoch: int) -> np.ndarray:
        # The stream's name enters the seed, or two streams of equal size would walk in step.
        return _permutation((self.seed, epoch, *self.name.encode()), self.num_rows)


@lru_cache(maxsize=4)
def _permutation(entropy: tuple[int, ...], size: int) -> np.ndarray:
    """Kept while a stream walks through it: of a large set it takes longer than the step."""
    return np.random.default_rng(entropy).permutation(size)


@dataclass(frozen=True)
class StepPlan:
    """All streams over a whole run."""

    streams: Mapping[str, StreamPlan]
    num_steps: int

    @classmethod
    def make(
        cls,
        sizes: Mapping[str, int],
        *,
        pace: str,
        batch_size: int,
        seed: int,
        epochs: float,
        max_steps: int | None,
    ) -> StepPlan:
        """Plan a run over streams of the given sizes; ``epochs`` counts passes over the stream called ``pace``."""
        streams = {
            name: StreamPlan(name, size, min(batch_size, size) if name == pace else batch_size, seed, name == pace)
            for name, size in sizes.items()
        }
        steps = max_steps or (max(1, round(epochs * streams[pace].steps_per_epoch)) if epochs else 0)
        return cls(streams, steps)

    def step(self, index: int) -> dict[str, list[tuple[int, int]]]:
        """``(row, epoch)`` pairs of step ``index``, by stream."""
        return {name: stream.at(index) for name, stream in self.streams.items()}
