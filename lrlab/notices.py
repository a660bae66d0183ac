"""What is worth a line before training begins: settings that work, but may not be meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lrlab import schedule_notices
from lrlab.plan import RunSpec


def lines(specs: Sequence[RunSpec]) -> list[str]:
    """One sentence for each thing to be noticed, without repetition, in the order of the runs.

    Args:
        specs: the runs of a sweep, or of a search those at the ends of its intervals.
    """
    found = [line for spec in specs for line in _of_data(spec)]
    found += schedule_notices.of_sweep(specs)
    found += [line for spec in schedule_notices.one_each(specs) for line in _of_schedule(spec)]
    return list(dict.fromkeys(found))


def _of_data(spec: RunSpec) -> Iterator[str]:
    yield from ()


def _of_schedule(spec: RunSpec) -> Iterator[str]:
    yield from schedule_notices.of_run(spec)
