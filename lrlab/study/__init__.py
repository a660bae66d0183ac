"""A sweep's queue of runs, which any number of workers share: an Optuna study.

One trial is one run. Its user attributes say which setting it belongs to, what it overrides, and
which worker has claimed it. A trial is claimed, and taken from a dead worker, under the study's
lock, so that each is trained once.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lrlab.config import schema
from lrlab.config import space as spaces
from lrlab.config.passwords import masked
from lrlab.config.space import Space
from lrlab.errors import UserError
from lrlab.study import heartbeat, sampling
from lrlab.study.heartbeat import Sign
from lrlab.study.sampling import CLAIM, MAXIMIZE, OVERRIDES, SETTING
from lrlab.study.storage import JOURNAL, Store, open_store
from lrlab.study.whereabouts import Place

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["Queue", "Run", "Trial", "masked", "open_queue"]

SEED, STATE = "seed", "state"  # more of a run's user attributes
SETTINGS = "settings"  # the study's user attribute: what its numbers come from
# The study's system attributes.
_SPACE, _WORKER, _NOTES = "lrlab:space", "lrlab:worker:", "lrlab:setting:"
_ASKED = "lrlab:asked"
_PLACE = "lrlab:place:"  # of a worker, also when it has left
POLL = 1.0  # seconds between two looks at what the others do
_SLICE = 0.1  # seconds within which waiting ends when asked to

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """A run that this worker is to train.

    Attributes:
        number: the run.
        setting: what it has in common with the runs that differ in their seed only.
        overrides: swept key to text, seed included.
        tick: the pool's tick at which the run first joined.
        epochs_reported: of a run that was interrupted; it goes on behind them.
    """

    number: int
    setting: int
    overrides: dict[str, str]
    tick: int
    epochs_reported: int


@dataclass(frozen=True)
class Run:
    """A run as the study knows it.

    Attributes:
        state: waiting, running, interrupted, finished, diverged, failed or pruned.
        value: its objective, None where it has none.
        overrides: swept key to text; empty where a search has not come to it yet.
        is_asked: whether this command asks for it. An earlier one may have asked for more.
    """

    number: int
    setting: int
    state: str
    value: float | None
    overrides: dict[str, str]
    is_asked: bool = True


def open_queue(
    name: str,
    storage: str,
    journal: Path | None,
    space: Space,
    direction: str,
    sampler: Mapping[str, Any],
    pruner: Mapping[str, Any],
    seed: int,
    n_trials: int | None,
    settings: Mapping[str, Any],
    lease: float,
    create: str,
    words: Sequence[str] = (),
    takes_all: bool = False,
    place: Place | None = None,
) -> Queue:
    """Open a sweep's queue, and add the runs that it lacks: all, or what an extension adds.

    Runs of an earlier request that this one does not name stay in the study, and are not trained.

    Args:
        name: of the study.
        storage: ``journal``, or a database's URL.
        journal: the journal's file.
        space: what is swept.
        direction: ``minimize`` or ``maximize``.
        sampler: its config, with a ``_target_``; used where something is searched.
        pruner: its config.
        seed: of a run that is not given one; draws depend on it too.
        n_trials: settings to search. None: a search without end. Of no meaning in a grid.
        settings: what else the runs' numbers come from, to be the same in all workers.
        lease: seconds without a sign of life after which a worker counts as dead.
        create: ``new`` (it must not exist), ``join`` (it may) or ``resume`` (it must).
        words: what asks for the runs of a grid, as typed; kept to say how to ask for them again.
        takes_all: whether n_trials was not typed, and settings of an earlier request are trained.
        place: where this worker writes, for the others to know; None: it is not noted.

    Raises:
        UserError: it exists or does not, it is another study, the storage does not work, or the
            sampler or pruner does not.
        NotWritten: the journal cannot be written.
    """
    if create == "resume" and storage == JOURNAL and not (journal and journal.is_file()):
        raise UserError(f"{journal}: is not there, so there is nothing to resume")
    if space.searched:  # a wrong one is found before anything is written
        sampling.make_sampler(sampler, seed, 0, sampling.distributions(space.intervals, {}))
    judge = sampling.make_pruner(pruner)
    store = open_store(storage, name, journal)
    try:
        queue = Queue(store, space, direction, sampler, pruner, seed, n_trials, lease)
        queue._prunes, queue._place = judge is not None, place
        queue._words, queue._takes_all = list(words), takes_all
        queue._open(name, settings, create, alone=storage == JOURNAL)
    except BaseException:
        store.close()
        raise
    return queue


class Queue:
    """One worker's access to the study; made by ``open_queue``."""

    def __init__(
        self,
        store: Store,
        space: Space,
        direction: str,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        seed: int,
        n_trials: int | None,
        lease: float,
    ) -> None:
        self._store, self._storage = store, store.storage
        self._space, self._direction = space, direction
        self._sampler, self._pruner, self._prunes = sampler, pruner, True
        self._seed, self._n_trials, self._lease = seed, n_trials, lease
        self._worker = heartbeat.new_id()
        self._asking = threading.Lock()  # for what it has lost
        self._sign = heartbeat.me()
        self._watch = heartbeat.Watch(lease)
        self._heart: heartbeat.Heart | None = None
        self._renewed = heartbeat.clock()
        self._was_away = False
        self._held: set[int] = set()  # runs that this worker trains
        self._ids: dict[int, int] = {}  # number to Optuna's id
        self._study_id = -1
        self._fresh_from = 0  # the tick from which runs that never ran may start
        self._looked = -math.inf  # when the dead were last looked for
        self._distributions: dict[str, BaseDistribution] = {}  # of a search
        self._choices: dict[str, list[str]] = {}  # the texts of its categorical ones
        self._name = ""
        self._words: list[str] = []  # what asks for a grid's runs
        self._takes_all = False
        self._unasked: frozenset[int] = frozenset()  # runs that this command does not ask for
        self._place: Place | None = None

    # --- what a pool of lanes needs ---------------------------------------------------------------

    def take(self, tick: int) -> Trial | None:
        """Claim a run: an interrupted one, else the first that waits, drawn where it is searched.

        Args:
            tick: of the pool, kept with a run that starts.

        Returns:
            None where nothing can start now.

        Raises:
            UserError: the sampler or the storage fails.
        """
        found = self._store.locked(lambda: self._take(tick))
        due = heartbeat.clock() - self._looked > POLL
        if found is None and due and self._requeue_the_dead():
            found = self._store.locked(lambda: self._take(tick))
        return found

    def start_tick(self) -> int:
        """The tick at which the pool of an interrupted sweep goes on, 0 in a new one.

        Ask before the first run is taken, and after those that had ended have been told.
        """
        runs = self._wanted(self._store.unlocked(self._runs))
        self._align(runs)
        interrupted = [_claim(run) for run in runs if _interrupted(run)]
        if interrupted:
            return min(claim["tick"] + claim.get("epochs", 0) for claim in interrupted)
        # Not before the last ones had ended: of a setting whose runs are taken one by one, those
        # taken before another death would seem to have begun while these still trained.
        ended = [run for run in runs if run.state.is_finished() and _claim(run)]
        return max(map(_end_tick, ended), default=0)

    def report(self, values: Mapping[int, tuple[int, float]]) -> set[int]:
        """Report what runs have come to together, and judge their settings.

        Args:
            values: run to (epochs done, value); one that is not finite is not reported.

        Returns:
            The runs to prune now. A run that reports an epoch again gets the same answer again.
        """
        return self._store.unlocked(lambda: self._report(values))

    def tell(self, number: int, state: str, value: float | None) -> bool:
        """End a run.

        Args:
            state: finished, diverged, failed or pruned.
            value: the objective; NaN and None never reach Optuna as a value.

        Returns:
            False where it is not this worker's any more, and nothing was told.
        """
        told = self._store.unlocked(lambda: self._tell(number, state, value))
        self._held.discard(number)
        return told

    def give_back(self, number: int) -> None:
        """Let go of an interrupted run: another worker may take it at once."""
        self._store.locked(lambda: self._give_back(number))
        self._held.discard(number)

    def wait(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Block until a run can be taken (True), or all have ended or stop() says so (False)."""
        while True:
            if stop():
                return False
            self._requeue_the_dead()
            runs = self._wanted(self._store.unlocked(self._runs))
            if self._unlimited or _startable(runs):
                return True
            if all(run.state.is_finished() for run in runs):
                return False
            until = time.monotonic() + POLL
            while time.monotonic() < until and not stop():
                time.sleep(_SLICE)

    def lost(self) -> list[int]:
        """The runs that others have taken over, because this worker gave no sign for its lease.

        While it has given one nobody has, and nothing is asked. Where all are still there, it gives
        a sign before anyone else can look again.
        """
        with self._asking:
            return self._store.locked(self._lost) if self._lapsed() else []

    @property
    def worker(self) -> str:
        """This worker's name, which no other has."""
        return self._worker

    def holds(self, number: int) -> bool:
        """Whether this worker has claimed a run and neither ended it nor given it back."""
        return number in self._held

    def trials(self) -> list[Run]:
        """All runs, by number."""
        return [
            _run(run, run.number not in self._unasked) for run in self._store.unlocked(self._runs)
        ]

    def asked_before(self) -> list[str]:
        """The words that asked for all runs of a grid, as typed; none where they are not known."""
        attrs = self._store.unlocked(lambda: self._storage.get_study_system_attrs(self._study_id))
        found = attrs.get(_ASKED)
        return [str(word) for word in found] if isinstance(found, list) else []

    def places(self) -> dict[int, Place]:
        """Where each run's latest worker writes, as far as that is known."""
        return self._store.unlocked(self._places)

    def best(self) -> tuple[int, int, float] | None:
        """The best setting, the number of its median run, and the median; None: none has one."""
        groups = _groups(self._wanted(self._store.unlocked(self._runs)))
        found = []
        for setting, runs in groups.items():
            trial = sampling.combined(runs, {}, self._direction)
            if trial.state.name == "COMPLETE":
                ranked = sorted(runs, key=lambda run: (self._loss(run), run.number))
                middle = ranked[(len(ranked) - 1) // 2]
                assert trial.value is not None
                found.append((self._sign_of(trial.value), setting, middle.number, trial.value))
        if not found:
            return None
        _, setting, number, value = min(found)
        return setting, number, value

    def others(self) -> int:
        """How many other workers live, as far as is known."""
        signs = self._store.unlocked(self._signs)
        return sum(not self._store.has_left(w) for w in self._watch.living(signs))

    def close(self) -> None:
        """Leave: what this worker still holds can be taken by others at once."""
        if self._heart is not None:
            self._heart.stop()
        try:
            self._store.unlocked(lambda: self._set(_WORKER + self._worker, None))
        finally:
            self._store.close()

    # --- opening ----------------------------------------------------------------------------------

    def _open(self, name: str, settings: Mapping[str, Any], create: str, alone: bool) -> None:
        self._store.locked(lambda: self._prepare(name, settings, create, alone))
        self._store.sync()
        self._heart = heartbeat.Heart(self._lease, self._beat)

    def _prepare(self, name: str, settings: Mapping[str, Any], create: str, alone: bool) -> None:
        """Find or make the study, and add what it lacks. Runs under the lock; may run again."""
        from optuna.study import StudyDirection

        self._store.enter(self._worker)
        direction = StudyDirection[self._direction.upper()]
        studies = self._storage.get_all_studies()
        # a journal has one study, whatever its folder is called by now
        found = next((s for s in studies if alone or s.study_name == name), None)
        if found is None:
            if create == "resume":
                raise UserError(f"name={name}: there is no such sweep in the storage to resume")
            self._study_id = self._storage.create_new_study([direction], name)
        elif create == "new" and self._study_id < 0:
            raise UserError(f"name={name}: the storage has such a sweep already; take another name")
        else:
            name, self._study_id = found.study_name, found._study_id
            there = self._storage.get_study_directions(self._study_id)[0]
            if there != direction:
                objective = f"objective={settings['objective']}" if "objective" in settings else ""
                raise UserError(
                    f"{objective or 'objective'}: is to be {self._direction}d, but the sweep "
                    f"{name} {there.name.lower()}s; take another name"
                )
        self._name = name
        self._check_space()
        self._check_settings(settings)
        self._beat_now()
        if self._place is not None:
            self._set(_PLACE + self._worker, dataclasses.asdict(self._place))
        self._forget_the_dead()
        self._add_missing()
        self._requeue(self._runs())

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        new = json.loads(json.dumps(settings))
        old = self._storage.get_study_user_attrs(self._study_id).get(SETTINGS)
        if old is None:
            self._storage.set_study_user_attr(self._study_id, SETTINGS, new)
            return
        before, now = schema.flat(old), schema.flat(new)
        if SEED in self._space.lists and SEED in before:  # its runs had one seed, and now get more
            self._seed = before.pop(SEED)
        missing = object()
        keys = [k for k in {**before, **now} if before.get(k, missing) != now.get(k, missing)]
        if keys:
            listed = ", ".join(
                f"{key}={_shown(before, key)} (now {_shown(now, key)})" for key in keys
            )
            raise UserError(
                f"name={self._name}: was made with other settings: {listed}; "
                "keep them as they were, or begin another sweep"
            )

    def _check_space(self) -> None:
        """Compare with what the study sweeps. A grid may grow, a search's space may not."""
        lists = {k: v for k, v in self._space.lists.items() if k != "seed"}
        new = {
            "intervals": {k: dataclasses.asdict(i) for k, i in self._space.intervals.items()},
            "lists": lists if self._space.searched else {key: [] for key in lists},
        }
        old = self._storage.get_study_system_attrs(self._study_id).get(_SPACE)
        if old is None:
            self._set(_SPACE, new)
            old = new
        before, now = _swept(old), _swept(new)
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise UserError(
                    f"{key}: is {_words(now.get(key))} now, but in the sweep {self._name} it is "
                    f"{_words(before.get(key))}; keep it so, or begin another sweep"
                )
        if self._space.searched:
            self._choices = old["lists"]  # in the study's order, which Optuna compares
            self._distributions = sampling.distributions(self._space.intervals, self._choices)

    def _add_missing(self) -> None:
        """Add the runs that are not there yet: all of a new sweep, or what an extension adds."""
        runs = self._runs()
        if self._space.searched:
            settings = self._asked_settings(runs)
            self._add_settings(runs, settings)
            now = self._runs()
            unasked = {run.number for run in now if sampling.setting_of(run) not in settings}
        else:
            self._add_points(runs)
            now, asked = self._runs(), {key for key, _ in self._asked_points()}
            unasked = {run.number for run in now if self._point_of(run) not in asked}
            self._keep_words(covers_all=not unasked, grew=len(now) > len(runs))
        self._unasked = frozenset(unasked)

    def _asked_settings(self, runs: Sequence[FrozenTrial]) -> set[int]:
        """The settings of a search that this command asks for: those that ended count first.

        Those that had begun follow, then the others by number, so that workers which open the
        study at different times agree.
        """
        groups = _groups(runs)
        if self._n_trials is None or self._takes_all:
            return set(range(max(self._n_trials or 0, len(groups))))

        def rank(setting: int) -> tuple[int, int]:
            group = groups[setting]
            if all(run.state.is_finished() for run in group):
                return 0, setting
            waits = all(run.state.name == "WAITING" and not _claim(run) for run in group)
            return (2 if waits else 1), setting

        there = sorted(groups, key=rank)[: self._n_trials]
        return {*there, *range(len(groups), self._n_trials)}

    def _asked_points(self) -> list[tuple[tuple[frozenset[Any], str], dict[str, str]]]:
        """The points of a grid that this command asks for, each with what tells it apart."""
        points = spaces.points(self._space)
        return [((_setting_key(p), self._seed_of({OVERRIDES: p})), p) for p in points]

    def _point_of(self, run: FrozenTrial) -> tuple[frozenset[Any], str]:
        return _setting_key(run.user_attrs[OVERRIDES]), self._seed_of(run.user_attrs)

    def _keep_words(self, covers_all: bool, grew: bool) -> None:
        """Keep the words that ask for all of a grid's runs; forget them where it outgrew them."""
        before = self._storage.get_study_system_attrs(self._study_id).get(_ASKED)
        words = self._words if covers_all else [] if grew else before
        if (words and words != before) or (before and not words):
            self._set(_ASKED, words)

    def _wanted(self, runs: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Without what an earlier command asked for, and this one leaves out."""
        return [r for r in runs if r.number not in self._unasked or r.state.is_finished()]

    def _add_settings(self, runs: Sequence[FrozenTrial], wanted: Iterable[int]) -> None:
        seeds = spaces.seeds(self._space)
        there = {(sampling.setting_of(run), self._seed_of(run.user_attrs)) for run in runs}
        for setting, text in itertools.product(sorted(wanted), seeds or [None]):
            attrs = {SETTING: setting} | ({} if text is None else {SEED: text})
            if (setting, self._seed_of(attrs)) not in there:
                self._add({}, {}, attrs)

    def _add_points(self, runs: Sequence[FrozenTrial]) -> None:
        numbered: dict[frozenset[Any], int] = {}
        there = set()
        for run in runs:
            there.add(self._point_of(run))
            numbered[self._point_of(run)[0]] = sampling.setting_of(run)
        wide = self._wide(runs)
        for (key, seed), point in self._asked_points():
            attrs: dict[str, Any] = {SETTING: numbered.setdefault(key, len(numbered))}
            attrs[OVERRIDES] = point
            if (key, seed) not in there:
                values = {k: spaces.value(text) for k, text in point.items()}
                fitting = {k: wide[k] for k in point if _fits(wide.get(k), values[k])}
                self._add({k: values[k] for k in fitting}, fitting, attrs)

    def _wide(self, runs: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
        """Distributions of a grid's numbers, so wide that the grid can grow; words have none."""
        from optuna.distributions import FloatDistribution, IntDistribution

        largest = sys.float_info.max
        found: dict[str, BaseDistribution] = {}
        for key, texts in self._space.lists.items():
            values = [spaces.value(text) for text in texts]
            if any(isinstance(value, str) for value in values):
                continue
            numbers = [float(value) for value in values]
            if all(isinstance(value, int) for value in values) and key.lstrip("+") != "lr":
                found[key] = IntDistribution(-(2**62), 2**62)
            elif min(numbers) > 0:
                found[key] = FloatDistribution(sys.float_info.min, largest, log=True)
            else:
                found[key] = FloatDistribution(-largest / 4, largest / 4)
        for run in runs:  # what the study has counts, for Optuna takes no other
            found.update({k: d for k, d in run.distributions.items() if k in self._space.lists})
        return found

    def _add(
        self,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attrs: dict[str, Any],
    ) -> None:
        from optuna.trial import TrialState, create_trial

        trial = create_trial(
            state=TrialState.WAITING,
            params=params,
            distributions=distributions,
            user_attrs=attrs,
        )
        self._storage.create_new_trial(self._study_id, template_trial=trial)

    def _seed_of(self, attrs: Mapping[str, Any]) -> str:
        """A run's seed, the sweep's where it was not given one of its own."""
        given = attrs.get(SEED, attrs.get(OVERRIDES, {}).get("seed"))
        return spaces.canonical(str(self._seed) if given is None else given)

    @property
    def _unlimited(self) -> bool:
        return self._space.searched and self._n_trials is None

    # --- taking -----------------------------------------------------------------------------------

    def _take(self, tick: int) -> Trial | None:
        runs = self._runs(only_states=not self._space.searched)
        run = self._next(self._wanted(runs), tick)
        if run is None and self._unlimited:
            self._add_settings(runs, [len({sampling.setting_of(run) for run in runs})])
            runs = self._runs()
            run = self._next(self._wanted(runs), tick)
        if run is None:
            return None
        if self._distributions.keys() - run.params.keys():  # one that died may have left a part
            self._draw(run, self._wanted(runs))
        attrs = self._storage.get_trial_user_attrs(run._trial_id)
        claim = {"tick": tick, **attrs.get(CLAIM, {})}
        if not self._claimed(run, {"worker": self._worker, "tick": claim["tick"]}):
            return self._take(tick)
        self._held.add(run.number)
        epochs = claim.get("epochs", 0)
        overrides = attrs[OVERRIDES]
        if SEED in self._space.lists and SEED not in overrides:  # of a sweep that had one seed
            overrides = {**overrides, SEED: str(self._seed)}
        return Trial(run.number, sampling.setting_of(run), overrides, claim["tick"], epochs)

    def _next(self, runs: Sequence[FrozenTrial], tick: int) -> FrozenTrial | None:
        """The run to start: an interrupted one, in the order in which they had started."""
        can = _startable(runs)
        interrupted = [run for run in can if CLAIM in run.user_attrs]
        if interrupted:
            return min(interrupted, key=lambda run: (_claim(run)["tick"], run.number))
        if self._held and tick < self._fresh_from:
            return None
        return can[0] if can else None

    def _claimed(self, run: FrozenTrial, claim: dict[str, Any]) -> bool:
        """Make a run this worker's; False where it does not wait any more."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            if not self._storage.set_trial_state_values(run._trial_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:
            return False
        self._storage.set_trial_user_attr(run._trial_id, CLAIM, claim)
        return True

    def _draw(self, run: FrozenTrial, runs: Sequence[FrozenTrial]) -> None:
        """Give a searched run its overrides: drawn, or those of its setting's first run."""
        groups = _groups(runs)
        lead = groups[sampling.setting_of(run)][0]
        if sampling.drawn(lead):
            swept = {k: v for k, v in lead.user_attrs[OVERRIDES].items() if k != "seed"}
        else:
            view = self._view(runs, self._notes())
            trial = next(t for t in view.shown if t.number == lead.number)
            index = sampling.setting_of(lead)
            params = sampling.draw(
                view, trial, self._sampler, self._seed, index, self._distributions
            )
            swept = {key: self._text(key, params[key]) for key in self._distributions}
        given = {"seed": run.user_attrs[SEED]} if SEED in run.user_attrs else {}
        # Written first and at once: a worker that dies meanwhile leaves no half a draw.
        self._storage.set_trial_user_attr(run._trial_id, OVERRIDES, {**swept, **given})
        for key, distribution in self._distributions.items():
            if key not in run.params:
                internal = distribution.to_internal_repr(self._param(key, swept[key]))
                self._storage.set_trial_param(run._trial_id, key, internal, distribution)

    def _text(self, key: str, value: Any) -> str:
        interval = self._space.intervals.get(key)
        if interval is None:
            index = self._distributions[key].to_internal_repr(value)
            return self._choices[key][int(index)]
        inside = min(max(value, interval.low), interval.high)
        return spaces.text(int(inside) if interval.whole else float(inside))

    def _param(self, key: str, text: str) -> Any:
        value = spaces.value(text)
        if key in self._space.intervals and not self._space.intervals[key].whole:
            return float(value)
        return value

    def _view(self, runs: Sequence[FrozenTrial], notes: Mapping[int, _Notes]) -> sampling.View:
        view = sampling.view(self._storage, self._name, self._direction, self._study_id)
        view.shown = [
            sampling.combined(group, notes.get(setting, _Notes()).attrs, self._direction)
            for setting, group in _groups(runs).items()
        ]
        view.shown.sort(key=lambda trial: trial.number)
        return view

    # --- reporting --------------------------------------------------------------------------------

    def _report(self, values: Mapping[int, tuple[int, float]]) -> set[int]:
        from optuna.exceptions import UpdateFinishedTrialError

        for number, (epoch, value) in values.items():
            if math.isfinite(value):
                try:
                    self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)
                except UpdateFinishedTrialError:  # another worker has finished it
                    continue
        if not self._prunes:
            return set()
        runs = self._runs()
        notes = self._judge(runs, {sampling.setting_of(runs[number]) for number in values})
        return {
            number
            for number, (epoch, _) in values.items()
            if notes[sampling.setting_of(runs[number])].prunes(epoch)
        }

    def _judge(self, runs: Sequence[FrozenTrial], settings: set[int]) -> dict[int, _Notes]:
        """Judge settings at the last epoch that all their runs have reported, each epoch once."""
        groups = _groups(self._wanted(runs))
        notes = self._notes()
        notes |= {setting: _Notes() for setting in settings if setting not in notes}
        view = self._view(self._wanted(runs), notes)
        shown = {trial.number: trial for trial in view.shown}
        wave = {}
        for setting in sorted(settings):
            trial = shown[groups[setting][0].number]
            epoch = trial.last_step or 0
            if epoch > notes[setting].judged and notes[setting].pruned is None:
                wave[setting] = trial
        pruner = sampling.make_pruner(self._pruner)
        if not wave or pruner is None:
            return notes
        verdicts = sampling.judge(view, pruner, list(wave.values()))
        for setting, trial in wave.items():
            prune, noted = verdicts[trial.number]
            epoch = trial.last_step or 0
            notes[setting] = _Notes(
                epoch, epoch if prune else None, {**notes[setting].attrs, **noted}
            )
            self._set(f"{_NOTES}{setting}", dataclasses.asdict(notes[setting]))
        return notes

    def _notes(self) -> dict[int, _Notes]:
        attrs = self._storage.get_study_system_attrs(self._study_id)
        found = {k.removeprefix(_NOTES): v for k, v in attrs.items() if k.startswith(_NOTES)}
        return {int(setting): _Notes(**noted) for setting, noted in found.items()}

    def _tell(self, number: int, state: str, value: float | None) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        trial_id = self._ids[number]
        if self._lapsed() and not self._holds(self._runs()[number]):
            return False
        if state == "pruned" and value is None:
            steps = self._storage.get_trial(trial_id).intermediate_values
            value = steps[max(steps)] if steps else None
        values = [value] if value is not None and math.isfinite(value) else None
        kinds = {"pruned": TrialState.PRUNED, "finished": TrialState.COMPLETE}
        kind = kinds.get(state, TrialState.FAIL)
        if kind == TrialState.COMPLETE and values is None:
            kind = TrialState.FAIL
        if kind == TrialState.FAIL:
            values = None
        try:
            self._storage.set_trial_user_attr(trial_id, STATE, state)
            self._storage.set_trial_state_values(trial_id, kind, values)
        except UpdateFinishedTrialError:
            return False
        return True

    # --- workers ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._store.unlocked(self._beat_now)
        self._store.sync()

    def _beat_now(self) -> None:
        now = heartbeat.clock()  # before it is written: others may have seen it no earlier
        self._was_away = self._lapsed()
        self._sign = dataclasses.replace(self._sign, beat=self._sign.beat + 1)
        self._set(_WORKER + self._worker, dataclasses.asdict(self._sign))
        self._renewed = now

    def _lapsed(self) -> bool:
        """Whether others may have taken this worker for dead."""
        return self._was_away or heartbeat.clock() - self._renewed > self._lease

    def _lost(self) -> list[int]:
        lost = [n for n, run in enumerate(self._runs()) if n in self._held and not self._holds(run)]
        if not lost:
            self._beat_now()
            self._was_away = False
        return lost

    def _holds(self, run: FrozenTrial) -> bool:
        return run.state.name == "RUNNING" and _claim(run).get("worker") == self._worker

    def _give_back(self, number: int) -> None:
        runs = self._runs()
        run = runs[number]
        if self._holds(run):
            epochs = self._epochs(run, _groups(self._wanted(runs)), self._notes())
            claim = {**_claim(run), "worker": None, "epochs": epochs}
            self._storage.set_trial_user_attr(run._trial_id, CLAIM, claim)
            self._to_waiting(run)

    def _requeue_the_dead(self) -> bool:
        """Make the runs of dead workers wait again; whether there were any."""
        self._looked = heartbeat.clock()
        if not self._store.unlocked(lambda: self._dead(self._runs())):
            return False
        return self._store.locked(lambda: self._requeue(self._runs()))

    def _requeue(self, runs: Sequence[FrozenTrial]) -> bool:
        dead = self._dead(runs)
        groups, notes = _groups(self._wanted(runs)), self._notes()
        for held in _by_worker(dead).values():
            # Lanes go in step: one that was a report ahead of the others when its worker died goes
            # back to them, so that they are judged together as they would have been.
            epochs = {run.number: self._epochs(run, groups, notes) for run in held}
            together = min(_claim(run)["tick"] + epochs[run.number] for run in held)
            for run in held:  # all before the first: one that dies in here changes nothing
                own, back = epochs[run.number], together - _claim(run)["tick"]
                done = max(own - 1, min(own, back), 0)
                claim = {"epochs": done, **_claim(run)}
                self._storage.set_trial_user_attr(run._trial_id, CLAIM, claim)
        for run in dead:
            self._to_waiting(run)
        return bool(dead)

    def _forget_the_dead(self) -> None:
        """Clear away what workers that are known to be gone have left."""
        for worker, sign in self._signs().items():
            if sign is not None and self._store.has_left(worker):
                self._set(_WORKER + worker, None)

    def _signs(self) -> dict[str, Sign | None]:
        """The other workers' signs of life; None: it has left."""
        attrs = self._storage.get_study_system_attrs(self._study_id)
        return {
            key.removeprefix(_WORKER): None if sign is None else Sign(**sign)
            for key, sign in attrs.items()
            if re.fullmatch(rf"{_WORKER}[\w.-]+", key) and key != _WORKER + self._worker
        }

    def _places(self) -> dict[int, Place]:
        attrs = self._storage.get_study_system_attrs(self._study_id)
        found = {}
        for run in self._runs():
            if worker := _claim(run).get("worker"):
                noted = attrs.get(_PLACE + worker)
                host = heartbeat.host_of(worker)
                found[run.number] = Place(**noted) if noted else Place(host, "")
        return found

    def _dead(self, runs: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The running runs that no living worker trains."""
        running = [run for run in runs if run.state.name == "RUNNING"]
        others = [r for r in running if r.number not in self._held or not self._holds(r)]
        if not others:
            return []
        signs = self._signs()
        holders = {_claim(run).get("worker") for run in others}
        living = self._watch.living({w: sign for w, sign in signs.items() if w in holders})
        left = {worker for worker in living if self._store.has_left(worker)}
        return [run for run in others if _claim(run).get("worker") not in living - left]

    def _epochs(
        self,
        run: FrozenTrial,
        groups: Mapping[int, Sequence[FrozenTrial]],
        notes: Mapping[int, _Notes],
    ) -> int:
        """The epochs that a run need not report again.

        A last report whose judgement is not there, or says prune, is made again.
        """
        reported = run.last_step or 0
        if not self._prunes or not reported:
            return reported
        setting = sampling.setting_of(run)
        noted = notes.get(setting, _Notes())
        if noted.pruned is not None:
            return min(reported, noted.pruned - 1)
        common = sampling.common_epoch(groups.get(setting, [run]))
        return reported - 1 if reported == common > noted.judged else reported

    def _to_waiting(self, run: FrozenTrial) -> None:
        from optuna.trial import TrialState

        self._storage.set_trial_state_values(run._trial_id, TrialState.WAITING)

    def _align(self, runs: Sequence[FrozenTrial]) -> None:
        """Let new runs start no earlier than they would have without the interruption.

        Where the worker died while it ended the runs of one tick, their places were to be filled
        at the next tick, after all of them had ended.
        """
        interrupted = [_claim(run) for run in runs if _interrupted(run)]
        if interrupted:
            start = min(claim["tick"] + claim.get("epochs", 0) for claim in interrupted)
            ends = [_end_tick(run) for run in runs if run.state.is_finished() and _claim(run)]
            self._fresh_from = min(max(ends, default=0), start + 1)

    # --- small ones -------------------------------------------------------------------------------

    def _runs(self, only_states: bool = False) -> list[FrozenTrial]:
        """The study's trials, by number."""
        found = self._store.runs(self._study_id, only_states)
        if len(self._ids) != len(found):
            self._ids = {run.number: run._trial_id for run in found}
        return found

    def _set(self, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(self._study_id, key, value)

    def _loss(self, run: FrozenTrial) -> float:
        return self._sign_of(sampling.final_value(run, self._direction))

    def _sign_of(self, value: float) -> float:
        """Lower is better, whatever the direction."""
        return -value if self._direction == MAXIMIZE else value


@dataclass(frozen=True)
class _Notes:
    """What is known about a setting's judgements.

    Attributes:
        judged: the last epoch at which it was judged.
        pruned: the epoch at which it was pruned.
        attrs: what the pruner keeps about it.
    """

    judged: int = 0
    pruned: int | None = None
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def prunes(self, epoch: int) -> bool:
        return self.pruned is not None and epoch >= self.pruned


def _claim(run: FrozenTrial) -> dict[str, Any]:
    return run.user_attrs.get(CLAIM, {})


def _interrupted(run: FrozenTrial) -> bool:
    """Whether a run had begun and waits again."""
    return run.state.name == "WAITING" and CLAIM in run.user_attrs


def _startable(runs: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The runs that can start: a setting is drawn with its first run, the others follow it."""
    from optuna.trial import TrialState

    waiting = [run for run in runs if run.state is TrialState.WAITING]
    if all(map(sampling.drawn, waiting)):  # a grid; and one of many runs is asked for each of them
        return waiting
    leads: dict[int, FrozenTrial] = {}
    for run in runs:
        leads.setdefault(sampling.setting_of(run), run)
    return [
        run
        for run in waiting
        if (lead := leads[sampling.setting_of(run)]) is run or sampling.drawn(lead)
    ]


def _end_tick(run: FrozenTrial) -> int:
    """The tick at which the run's place was free.

    Only one that is pruned ends with a report; others end within an epoch, or at the last one's
    end, before the others report.
    """
    return _claim(run)["tick"] + (run.last_step or 0) + (run.state.name != "PRUNED")


def _groups(runs: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """The runs of each setting, by number."""
    found: dict[int, list[FrozenTrial]] = {}
    for run in runs:
        found.setdefault(sampling.setting_of(run), []).append(run)
    return found


def _by_worker(runs: Sequence[FrozenTrial]) -> dict[str | None, list[FrozenTrial]]:
    """The runs of each worker; without one that died before it had claimed its run."""
    found: dict[str | None, list[FrozenTrial]] = {}
    for run in runs:
        if CLAIM in run.user_attrs:
            found.setdefault(_claim(run)["worker"], []).append(run)
    return found


def _run(run: FrozenTrial, is_asked: bool) -> Run:
    state = {"WAITING": "waiting", "RUNNING": "running", "PRUNED": "pruned"}.get(run.state.name)
    state = state or run.user_attrs.get(STATE, "failed")
    overrides = dict(run.user_attrs.get(OVERRIDES, {}))
    value = run.value if run.state.is_finished() else None
    shown = "interrupted" if _interrupted(run) else state
    return Run(run.number, sampling.setting_of(run), shown, value, overrides, is_asked)


def _setting_key(overrides: Mapping[str, str]) -> frozenset[Any]:
    """A setting, however its values are typed."""
    return frozenset(
        (key.lstrip("+"), spaces.canonical(text))
        for key, text in overrides.items()
        if key != "seed"
    )


def _fits(distribution: BaseDistribution | None, value: Any) -> bool:
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(distribution, IntDistribution) and not isinstance(value, int):
        return False
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return False
    return not isinstance(value, str) and distribution.low <= value <= distribution.high


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "not given"


def _swept(space: Mapping[str, Any]) -> dict[str, Any]:
    """What is swept, comparable: the ends of intervals, and the choices of a search's lists."""
    found: dict[str, Any] = {}
    for key, interval in space["intervals"].items():
        found[key.lstrip("+")] = (interval["low"], interval["high"], interval["log"])
    for key, texts in space["lists"].items():
        found[key.lstrip("+")] = sorted(spaces.canonical(text) for text in texts)
    return found


def _words(swept: Any) -> str:
    if swept is None:
        return "not swept"
    if isinstance(swept, tuple):
        low, high, log = swept
        return f"searched from {low:g} to {high:g}" + (", log-scaled" if log else "")
    return f"one of {', '.join(swept)}" if swept else "a list"
