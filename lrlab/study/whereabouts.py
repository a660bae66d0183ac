"""Find which runs of a shared sweep lie on other machines, and what the study knows of them.

Machines that share only the database have only the folders of the runs that they trained.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrlab import records
from lrlab.errors import UserError, printable

if TYPE_CHECKING:
    from lrlab.study.points import Run


@dataclass(frozen=True)
class Place:
    """Where a worker writes.

    Attributes:
        host: the machine's name.
        folder: the sweep's, on that machine; empty if not noted.
    """

    host: str
    folder: str


def here(folder: Path) -> Place:
    """Return the place of a worker of this machine that writes to a sweep's folder."""
    return Place(socket.gethostname(), str(folder.absolute()))


def missing(
    folder: Path, ended: Sequence[Run], places: Mapping[int, Place]
) -> tuple[dict[Place, list[Run]], list[int]]:
    """Return the runs whose results are not in a folder.

    Args:
        folder: the sweep's, here.
        ended: the runs that have ended, as the study has them.
        places: where each was trained, as far as noted.

    Returns:
        Those that lie elsewhere, by place; and the numbers of those that were written here, or on
        a disk shared with this machine, and are gone.
    """
    present = {run.number for run in ended if _has_ended(folder / str(run.number))}
    shared = {here(folder), *(places[number] for number in present if number in places)}
    elsewhere: dict[Place, list[Run]] = {}
    gone = []
    for run in ended:
        place = places.get(run.number)
        if run.number in present:
            continue
        if place is not None and place not in shared and place != Place(here(folder).host, ""):
            elsewhere.setdefault(place, []).append(run)
        elif not (folder / str(run.number)).is_dir():
            gone.append(run.number)
    return elsewhere, gone


def _has_ended(run: Path) -> bool:
    try:
        return records.read_summary(run).get("state") in records.ENDED
    except FileNotFoundError:
        return False
    except UserError:  # damaged, but here
        return True


def lines(
    elsewhere: Mapping[Place, Sequence[Run]], total: int, objective: str, maximised: bool
) -> list[str]:
    """Return a line a place: which runs lie there, and the best value among them."""
    found = []
    for place, runs in elsewhere.items():
        numbers = ", ".join(str(run.number) for run in runs[:10])
        numbers += f" and {len(runs) - 10} more" if len(runs) > 10 else ""
        where = f"{place.host}:{place.folder}" if place.folder else place.host
        text = f"{len(runs)} of {total} runs lie on {where}: {numbers}"
        valued = [run for run in runs if run.value is not None]
        if valued:
            best = (max if maximised else min)(valued, key=lambda run: run.value or 0.0)
            swept = " ".join(f"{key}={value}" for key, value in best.overrides.items())
            text += f"; lowest {objective}" if not maximised else f"; highest {objective}"
            text += f" {best.value:.4g}, run {best.number}" + (f" ({swept})" if swept else "")
        found.append(printable(text))
    return found
