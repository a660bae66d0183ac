"""Share a sweep's queue of runs among any number of workers: an Optuna study.

One trial is one run. Its user attributes say which setting it belongs to, which options it
overrides, and which worker has claimed it. A trial is claimed, or taken from a dead worker, under
the study's lock. So each is trained once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lrlab.errors import UserError
from lrlab.study import heartbeat, sampling
from lrlab.study.claims import Claims, Trial, startable
from lrlab.study.draws import Draws
from lrlab.study.heartbeat import Place
from lrlab.study.points import ASKED, STATE, Points, Request, Run
from lrlab.study.sampling import MAXIMIZE, OVERRIDES
from lrlab.study.storage import JOURNAL, OpenStudy, Store, open_store

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

POLL = 1.0  # seconds between two looks at the other workers
_SLICE = 0.1  # seconds within which waiting ends when asked to


def open_queue(
    name: str,
    storage: str,
    journal: Path | None,
    request: Request,
    create: str,
    place: Place | None = None,
) -> Queue:
    """Open a sweep's queue, and add the missing runs: all, or the new ones of an extension.

    Runs of an earlier request that this one does not name stay in the study, untrained.

    Args:
        name: of the study.
        storage: ``journal``, or a database's URL.
        journal: the journal's file.
        request: the runs asked for.
        create: ``new`` (it must not exist), ``join`` (it may) or ``resume`` (it must).
        place: where this worker writes, for the others to know; None: it is not noted.

    Raises:
        UserError: it exists or does not, it is another study, the storage does not work, or the
            sampler or pruner does not.
        NotWritten: the journal cannot be written.
    """
    if create == "resume" and storage == JOURNAL and not (journal and journal.is_file()):
        raise UserError(f"{journal}: is not there, so there is nothing to resume")
    space = request.space
    if space.searched:  # find an error before anything is written
        drawn = sampling.distributions(space.intervals, {})
        sampling.make_sampler(request.sampler, request.seed, 0, drawn)
    sampling.make_pruner(request.pruner)
    store = open_store(storage, name, journal)
    try:
        queue = Queue(store, request)
        queue._open(name, create, storage == JOURNAL, place)
    except BaseException:
        store.close()
        raise
    return queue


class Queue:
    """One worker's access to the study; made by ``open_queue``."""

    def __init__(self, store: Store, request: Request) -> None:
        self._store, self._request = store, request
        self._study = OpenStudy(store, request.direction)
        self._points = Points(self._study, request)
        self._draws = Draws(self._study, self._points, request)
        self._claims = Claims(self._study, self._points, self._draws, request.lease)

    def take(self, tick: int) -> Trial | None:
        """Claim a run: an interrupted one, else the first that waits; draw it if it is searched.

        Args:
            tick: of the pool, kept with a run that starts.

        Returns:
            None where nothing can start now.

        Raises:
            UserError: the sampler or the storage fails.
        """
        found = self._store.locked(lambda: self._claims.take(tick))
        due = heartbeat.clock() - self._claims.looked > POLL
        if found is None and due and self._claims.requeue_the_dead():
            found = self._store.locked(lambda: self._claims.take(tick))
        return found

    def start_tick(self) -> int:
        """Return the tick at which the pool of an interrupted sweep goes on; 0 in a new one.

        Ask before the first run is taken, and after the ended ones have been reported.
        """
        return self._claims.start_tick()

    def report(self, values: Mapping[int, tuple[int, float]]) -> set[int]:
        """Report the runs' results together, and judge their settings.

        Args:
            values: run to (epochs done, value); one that is not finite is not reported.

        Returns:
            The runs to prune now. A run that reports an epoch again gets the same answer again.
        """
        return self._store.unlocked(lambda: self._draws.report(values))

    def tell(self, number: int, state: str, value: float | None) -> bool:
        """End a run.

        Args:
            state: finished, diverged, failed or pruned.
            value: the objective; NaN and None never reach Optuna as a value.

        Returns:
            False if it is no longer this worker's; then nothing was reported.
        """
        told = self._store.unlocked(lambda: self._claims.tell(number, state, value))
        self._claims.held.discard(number)
        return told

    def give_back(self, number: int) -> None:
        """Release an interrupted run: another worker may take it at once."""
        self._store.locked(lambda: self._claims.give_back(number))
        self._claims.held.discard(number)

    def wait(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Block until a run can be taken (True), or all have ended or stop() is true (False)."""
        while True:
            if stop():
                return False
            self._claims.requeue_the_dead()
            runs = self._points.wanted(self._store.unlocked(self._study.runs))
            if self._points.without_end or startable(runs):
                return True
            if all(run.state.is_finished() for run in runs):
                return False
            until = time.monotonic() + POLL
            while time.monotonic() < until and not stop():
                time.sleep(_SLICE)

    def lost(self) -> list[int]:
        """Return the runs that others took over, because this worker gave no sign for its lease.

        If it has given one, nobody has taken any, and nothing is asked. If all are still there, it
        gives a sign before anyone else can look again.
        """
        return self._claims.lost()

    @property
    def worker(self) -> str:
        """This worker's unique name."""
        return self._claims.worker

    def holds(self, number: int) -> bool:
        """Return whether this worker has claimed a run and neither ended it nor given it back."""
        return number in self._claims.held

    def trials(self) -> list[Run]:
        """Return all runs, by number."""
        return [
            _run(run, run.number not in self._points.unasked)
            for run in self._store.unlocked(self._study.runs)
        ]

    def asked_before(self) -> list[str]:
        """Return the words that asked for all runs of a grid, as typed; none if unknown."""
        attrs = self._store.unlocked(self._study.attrs)
        found = attrs.get(ASKED)
        return [str(word) for word in found] if isinstance(found, list) else []

    def places(self) -> dict[int, Place]:
        """Where each run's latest worker writes, as far as that is known."""
        return self._store.unlocked(self._claims.places)

    def best(self) -> tuple[int, int, float] | None:
        """Return the best setting, the number of its median run, and the median; None without."""
        groups = sampling.groups(self._points.wanted(self._store.unlocked(self._study.runs)))
        direction = self._study.direction
        sign = -1 if direction == MAXIMIZE else 1
        found = []
        for setting, runs in groups.items():
            trial = sampling.combined(runs, {}, direction)
            if trial.state.name == "COMPLETE" and (value := trial.value) is not None:
                values = [(sign * sampling.final_value(r, direction), r.number) for r in runs]
                middle = sorted(values)[(len(values) - 1) // 2]
                found.append((sign * value, setting, middle[1], value))
        if not found:
            return None
        _, setting, number, value = min(found)
        return setting, number, value

    def others(self) -> int:
        """Return how many other workers live, as far as is known."""
        return self._claims.others()

    def close(self) -> None:
        """Leave: others can take this worker's runs at once."""
        try:
            self._claims.leave()
        finally:
            self._store.close()

    def _open(self, name: str, create: str, alone: bool, place: Place | None) -> None:
        self._store.locked(lambda: self._prepare(name, create, alone, place))
        self._store.sync()
        self._claims.start()

    def _prepare(self, name: str, create: str, alone: bool, place: Place | None) -> None:
        """Find or make the study, and add missing runs, under the lock. It may run again."""
        from optuna.study import StudyDirection

        self._store.enter(self._claims.worker)
        direction = StudyDirection[self._study.direction.upper()]
        studies = self._study.storage.get_all_studies()
        # a journal has one study, whatever its folder is called by now
        found = next((s for s in studies if alone or s.study_name == name), None)
        if found is None:
            if create == "resume":
                raise UserError(f"name={name}: there is no such sweep in the storage to resume")
            self._study.id = self._study.storage.create_new_study([direction], name)
        elif create == "new" and self._study.id < 0:
            raise UserError(f"name={name}: the storage has such a sweep already; take another name")
        else:
            name, self._study.id = found.study_name, found._study_id
            there = self._study.storage.get_study_directions(self._study.id)[0]
            if there != direction:
                settings = self._request.settings
                objective = f"objective={settings['objective']}" if "objective" in settings else ""
                raise UserError(
                    f"{objective or 'objective'}: is to be {self._study.direction}d, but the sweep "
                    f"{name} {there.name.lower()}s; take another name"
                )
        self._study.name = name
        self._draws.choose_from(self._points.check_space())
        self._points.check_settings()
        self._claims.enter(place)
        self._points.add_missing()
        self._claims.requeue(self._study.runs())


def _run(run: FrozenTrial, is_asked: bool) -> Run:
    state = {"WAITING": "waiting", "RUNNING": "running", "PRUNED": "pruned"}.get(run.state.name)
    state = state or run.user_attrs.get(STATE, "failed")
    overrides = dict(run.user_attrs.get(OVERRIDES, {}))
    value = run.value if run.state.is_finished() else None
    shown = "interrupted" if sampling.interrupted(run) else state
    return Run(run.number, sampling.setting_of(run), shown, value, overrides, is_asked)
