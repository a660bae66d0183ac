"""Compare the runs of a study with those that this command asks for, and add missing ones."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrlab.config import schema
from lrlab.config import space as spaces
from lrlab.config.space import Space
from lrlab.errors import UserError
from lrlab.study import sampling
from lrlab.study.sampling import OVERRIDES, SETTING
from lrlab.study.storage import OpenStudy

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SEED, STATE = "seed", "state"  # more of a run's user attributes
SETTINGS = "settings"  # the study's user attribute: what its numbers depend on
_SPACE, ASKED = "lrlab:space", "lrlab:asked"  # the study's system attributes


@dataclass(frozen=True)
class Request:
    """A command's request to a study.

    Attributes:
        space: the swept options.
        direction: ``minimize`` or ``maximize``.
        sampler: its config, with a ``_target_``; used if something is searched.
        pruner: its config.
        seed: of a run without one of its own; draws depend on it, too.
        n_trials: settings to search. None: a search without end. Without meaning in a grid.
        settings: the other values that decide the runs' numbers, the same in all workers.
        lease: seconds without a sign of life after which a worker counts as dead.
        words: the request for the runs of a grid, as typed; kept to show how to repeat it.
        takes_all: whether n_trials was not typed, so that earlier settings are trained, too.
    """

    space: Space
    direction: str
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    seed: int
    n_trials: int | None
    settings: Mapping[str, Any]
    lease: float
    words: Sequence[str] = ()
    takes_all: bool = False


@dataclass(frozen=True)
class Run:
    """A run in the study.

    Attributes:
        state: waiting, running, interrupted, finished, diverged, failed or pruned.
        value: its objective, None where it has none.
        overrides: swept key to text; empty until a search reaches it.
        is_asked: whether this command asks for it. An earlier one may have asked for more.
    """

    number: int
    setting: int
    state: str
    value: float | None
    overrides: dict[str, str]
    is_asked: bool = True


class Points:
    """The runs that a command asks a study for.

    Attributes:
        space: the swept options.
        seed: of a run without one of its own.
        unasked: runs that an earlier command asked for, and this one does not.
    """

    def __init__(self, study: OpenStudy, request: Request) -> None:
        self._study, self._request = study, request
        self.space, self.seed = request.space, request.seed
        self.unasked: frozenset[int] = frozenset()

    def check_settings(self) -> None:
        """Check that the values that decide the runs' numbers are those of the study.

        Raises:
            UserError: a setting differs.
        """
        new = json.loads(json.dumps(self._request.settings))
        old = self._study.storage.get_study_user_attrs(self._study.id).get(SETTINGS)
        if old is None:
            self._study.storage.set_study_user_attr(self._study.id, SETTINGS, new)
            return
        before, now = schema.flat(old), schema.flat(new)
        if SEED in self.space.lists and SEED in before:  # its runs had one seed, and now get more
            self.seed = before.pop(SEED)
        missing = object()
        keys = [k for k in {**before, **now} if before.get(k, missing) != now.get(k, missing)]
        if keys:
            listed = ", ".join(
                f"{key}={_shown(before, key)} (now {_shown(now, key)})" for key in keys
            )
            raise UserError(
                f"name={self._study.name}: was made with other settings: {listed}; "
                "keep them as they were, or begin another sweep"
            )

    def check_space(self) -> dict[str, list[str]]:
        """Check the swept options against the study's. A grid may grow, a search's space may not.

        Returns:
            The lists of a search in the study's order, which Optuna compares; none for a grid.

        Raises:
            UserError: another space is swept.
        """
        lists = {k: v for k, v in self.space.lists.items() if k != "seed"}
        new = {
            "intervals": {k: dataclasses.asdict(i) for k, i in self.space.intervals.items()},
            "lists": lists if self.space.searched else {key: [] for key in lists},
        }
        old = self._study.attrs().get(_SPACE)
        if old is None:
            self._study.set(_SPACE, new)
            old = new
        before, now = _swept(old), _swept(new)
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise UserError(
                    f"{key}: is {_as_words(now.get(key))} now, but in the sweep {self._study.name} "
                    f"it is {_as_words(before.get(key))}; keep it so, or begin another sweep"
                )
        return old["lists"] if self.space.searched else {}

    def add_missing(self) -> None:
        """Add the missing runs: all of a new sweep, or the new ones of an extension."""
        runs = self._study.runs()
        if self.space.searched:
            settings = self._asked_settings(runs)
            self.add_settings(runs, settings)
            now = self._study.runs()
            unasked = {run.number for run in now if sampling.setting_of(run) not in settings}
        else:
            self._add_points(runs)
            now, asked = self._study.runs(), {key for key, _ in self.asked_points()}
            unasked = {run.number for run in now if self.point_of(run) not in asked}
            self._keep_words(covers_all=not unasked, grew=len(now) > len(runs))
        self.unasked = frozenset(unasked)

    def wanted(self, runs: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the runs without those that only an earlier command asked for."""
        return [r for r in runs if r.number not in self.unasked or r.state.is_finished()]

    def _asked_settings(self, runs: Sequence[FrozenTrial]) -> set[int]:
        """Return the settings of a search that this command asks for, with those that ended first.

        Those that had begun follow, then the others by number. So workers that open the study at
        different times agree.
        """
        groups = sampling.groups(runs)
        if self._request.n_trials is None or self._request.takes_all:
            return set(range(max(self._request.n_trials or 0, len(groups))))

        def rank(setting: int) -> tuple[int, int]:
            group = groups[setting]
            if all(run.state.is_finished() for run in group):
                return 0, setting
            waits = all(run.state.name == "WAITING" and not sampling.claim_of(run) for run in group)
            return (2 if waits else 1), setting

        there = sorted(groups, key=rank)[: self._request.n_trials]
        return {*there, *range(len(groups), self._request.n_trials)}

    def asked_points(self) -> list[tuple[tuple[frozenset[Any], str], dict[str, str]]]:
        """Return the points of a grid that this command asks for, each with its key."""
        points = spaces.points(self.space)
        return [((_setting_key(p), self._seed_of({OVERRIDES: p})), p) for p in points]

    def point_of(self, run: FrozenTrial) -> tuple[frozenset[Any], str]:
        """Return the key of a run of a grid."""
        return _setting_key(run.user_attrs[OVERRIDES]), self._seed_of(run.user_attrs)

    def _keep_words(self, covers_all: bool, grew: bool) -> None:
        """Keep the words that ask for all of a grid's runs; forget them once it outgrows them."""
        before = self._study.attrs().get(ASKED)
        words = list(self._request.words) if covers_all else [] if grew else before
        if (words and words != before) or (before and not words):
            self._study.set(ASKED, words)

    def add_settings(self, runs: Sequence[FrozenTrial], wanted: Iterable[int]) -> None:
        """Add the missing settings of a search, with all their seeds."""
        seeds = spaces.seeds(self.space)
        there = {(sampling.setting_of(run), self._seed_of(run.user_attrs)) for run in runs}
        for setting, text in itertools.product(sorted(wanted), seeds or [None]):
            attrs = {SETTING: setting} | ({} if text is None else {SEED: text})
            if (setting, self._seed_of(attrs)) not in there:
                self._add({}, {}, attrs)

    def _add_points(self, runs: Sequence[FrozenTrial]) -> None:
        numbered: dict[frozenset[Any], int] = {}
        there = set()
        for run in runs:
            there.add(self.point_of(run))
            numbered[self.point_of(run)[0]] = sampling.setting_of(run)
        wide = self._wide(runs)
        for (key, seed), point in self.asked_points():
            attrs: dict[str, Any] = {SETTING: numbered.setdefault(key, len(numbered))}
            attrs[OVERRIDES] = point
            if (key, seed) not in there:
                values = {k: spaces.value(text) for k, text in point.items()}
                fitting = {k: wide[k] for k in point if _fits(wide.get(k), values[k])}
                self._add({k: values[k] for k in fitting}, fitting, attrs)

    def _wide(self, runs: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
        """Return distributions of a grid's numbers, wide enough for growth; words have none."""
        from optuna.distributions import FloatDistribution, IntDistribution

        largest = sys.float_info.max
        found: dict[str, BaseDistribution] = {}
        for key, texts in self.space.lists.items():
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
        for run in runs:  # the study's value counts, because Optuna takes no other
            found.update({k: d for k, d in run.distributions.items() if k in self.space.lists})
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
        self._study.storage.create_new_trial(self._study.id, template_trial=trial)

    def _seed_of(self, attrs: Mapping[str, Any]) -> str:
        """Return a run's seed, or the sweep's if it has none."""
        given = attrs.get(SEED, attrs.get(OVERRIDES, {}).get("seed"))
        return spaces.canonical(str(self.seed) if given is None else given)

    @property
    def without_end(self) -> bool:
        """Return whether a search goes on until it is stopped."""
        return self.space.searched and self._request.n_trials is None


def _setting_key(overrides: Mapping[str, str]) -> frozenset[Any]:
    """Return a setting's key, however its values are typed."""
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
    """Return the swept options in comparable form: ends of intervals, choices of searched lists."""
    found: dict[str, Any] = {}
    for key, interval in space["intervals"].items():
        found[key.lstrip("+")] = (interval["low"], interval["high"], interval["log"])
    for key, texts in space["lists"].items():
        found[key.lstrip("+")] = sorted(spaces.canonical(text) for text in texts)
    return found


def _as_words(swept: Any) -> str:
    if swept is None:
        return "not swept"
    if isinstance(swept, tuple):
        low, high, log = swept
        return f"searched from {low:g} to {high:g}" + (", log-scaled" if log else "")
    return f"one of {', '.join(swept)}" if swept else "a list"
