"""Say which runs of a sweep this command leaves out, and which lie on other machines.

Machines that share only the database have only the folders of the runs that they trained.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrlab import records
from lrlab.config import space as spaces
from lrlab.config.space import Space
from lrlab.errors import UserError, printable
from lrlab.study.heartbeat import Place, here
from lrlab.study.trial_source import label

if TYPE_CHECKING:
    from lrlab.study.points import Run
    from lrlab.study.queue import Queue

_NAMED = 3  # up to so many runs are named, more are counted


def lines(queue: Queue, space: Space, resume: str) -> list[str]:
    """Return what this command leaves out, and the command that trains it; none if nothing.

    Args:
        queue: open, so that it holds all requests, before and now.
        space: the space that this command sweeps.
        resume: the command that goes on with the sweep.
    """
    runs = queue.trials()
    others = [run for run in runs if not run.is_asked]
    ended = [run for run in others if run.state in records.ENDED]
    left = [run for run in others if run.state not in records.ENDED]
    found = _searched(runs, left, resume) if space.searched else []
    if left and not space.searched:
        words = queue.asked_before() or _union(runs, space)
        again = " ".join([resume, *map(shlex.quote, words)])
        found.append(
            f"{_runs(left)} left out of what was asked for before; to train {_them(left)}, {again}"
        )
    if ended:
        stay = "ended before and stays" if len(ended) == 1 else "ended before and stay"
        more = "1 more run" if len(ended) == 1 else f"{len(ended)} more runs"
        found.append(
            f"{more} {stay} in the sweep, although this command does not name {_them(ended)}"
        )
    if space.searched and (more := _more_seeds(runs, space)):
        found.append(more)
    return found


def asking(task: Sequence[str], space: Space) -> list[str]:
    """Return those words of a command that say which runs a grid has."""
    keys = {key.lstrip("+") for key in space.lists} | {"points"}
    return [word for word in task if word.partition("=")[0].lstrip("+") in keys]


def _searched(runs: Sequence[Run], left: Sequence[Run], resume: str) -> list[str]:
    if not left:
        return []
    total, out = len({run.setting for run in runs}), len({run.setting for run in left})
    are = "1 setting is" if out == 1 else f"{out} settings are"
    them = "it" if out == 1 else "them"
    return [
        f"{are} left out of the {total} that were asked for before; "
        f"to train {them}, {resume} n_trials={total}"
    ]


def _more_seeds(runs: Sequence[Run], space: Space) -> str:
    """Return that a search also trains the seeds that this command does not name, if any."""
    seeds = spaces.seeds(space)
    there = {run.overrides["seed"] for run in runs if "seed" in run.overrides}
    known = {spaces.canonical(text) for text in seeds}
    more = sorted(text for text in there if spaces.canonical(text) not in known)
    if not seeds or not more:
        return ""
    return (
        f"seed={','.join(seeds)}: the search has seed {', '.join(more)} as well, and trains all of "
        "them, because all seeds of a setting judge it"
    )


def _runs(left: Sequence[Run]) -> str:
    one = len(left) == 1
    named = f" ({'; '.join(label(run.overrides) for run in left)})" if len(left) <= _NAMED else ""
    return f"1 run{named} is" if one else f"{len(left)} runs{named} are"


def _them(runs: Sequence[Run]) -> str:
    return "it" if len(runs) == 1 else "them"


def _union(runs: Sequence[Run], space: Space) -> list[str]:
    """Return the lists of all runs of a grid, as words."""
    found = []
    for key, texts in space.lists.items():
        values = {spaces.canonical(text): text for text in texts}
        for run in runs:
            text = run.overrides.get(key)
            if text is not None:
                values.setdefault(spaces.canonical(text), text)
        found.append(f"{key}={','.join(values.values())}")
    return found


# --- runs on other machines -----------------------------------------------------------------------


def missing(
    folder: Path, ended: Sequence[Run], places: Mapping[int, Place]
) -> tuple[dict[Place, list[Run]], list[int]]:
    """Return the runs whose results are not in a folder.

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


def elsewhere_lines(
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
