"""Choose how many threads make a segment, by the time of the latest ones."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

TRIALS = 3  # segments for each number of threads; the first ones are slow while caches are cold
PATIENCE = 10  # segments between two trials, times how much slower the other number of threads was
MOST_PATIENCE = 100


class Pace:
    """The number of threads for a segment: the fastest of late.

    torch's threads wait for one another by spinning. If other work keeps a core busy, one thread
    can be many times as fast as two. Some products are always too small for two. The other number
    is tried at times, the sooner the less it costs.
    """

    def __init__(self, choices: Sequence[int]) -> None:
        # seconds a step of the latest two segments; the better one counts, because other work comes
        # in bursts
        self._seconds = {count: deque([math.inf], maxlen=2) for count in choices}
        self._segments = 0
        self._without_trial = 0  # segments

    @property
    def on_trial(self) -> bool:
        """Whether the next segment may be made by a number that is not the fastest."""
        return self._untried or self._without_trial >= self._patience

    def choose(self) -> int:
        choices = list(self._seconds)
        if self._untried:
            count = choices[self._segments % len(choices)]
        else:
            fastest, *others = sorted(choices, key=self._believed)
            count = others[0] if self.on_trial else fastest
        self._without_trial = 0 if self.on_trial else self._without_trial + 1
        self._segments += 1
        return count

    def note(self, count: int, seconds: float) -> None:
        self._seconds[count].append(seconds)

    def _believed(self, count: int) -> float:
        return min(self._seconds[count])

    @property
    def _untried(self) -> bool:
        choices = len(self._seconds)
        return choices > 1 and self._segments < TRIALS * choices

    @property
    def _patience(self) -> float:
        if len(self._seconds) == 1:
            return math.inf
        believed = [self._believed(count) for count in self._seconds]
        return min(PATIENCE * max(believed) / min(believed), MOST_PATIENCE)
