"""Let Optuna's samplers and pruners see settings, each as the median over its seeds.

Optuna knows only runs, so its samplers and pruners get a storage that shows one trial a setting.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import inspect
import math
import statistics
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from lrlab.config import space as spaces
from lrlab.config.space import Interval
from lrlab.config.targets import HYDRA_KEYS, hydra_error, instantiate, located
from lrlab.errors import UserError
from lrlab.study import cmaes_state

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial, TrialState

CLAIM, OVERRIDES, SETTING = "claim", "overrides", "setting"  # a run's user attributes
MAXIMIZE = "maximize"

_PACKAGES = {"CmaEsSampler": "cmaes", "GPSampler": "scipy", "QMCSampler": "scipy"}


# --- settings as trials ---------------------------------------------------------------------------


def setting_of(run: FrozenTrial) -> int:
    """Return the setting of a run."""
    return run.user_attrs[SETTING]


def drawn(run: FrozenTrial) -> bool:
    """Return whether the run's setting is known: always in a grid, after the draw in a search."""
    return OVERRIDES in run.user_attrs


def claim_of(run: FrozenTrial) -> dict[str, Any]:
    """Return who has claimed a run, and from which tick on; empty if nobody has."""
    return run.user_attrs.get(CLAIM, {})


def interrupted(run: FrozenTrial) -> bool:
    """Return whether a run had begun and waits again."""
    return run.state.name == "WAITING" and CLAIM in run.user_attrs


def groups(runs: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Return the runs of each setting, by number."""
    found: dict[int, list[FrozenTrial]] = {}
    for run in runs:
        found.setdefault(setting_of(run), []).append(run)
    return found


def worst(direction: str) -> float:
    """Return the value that stands for a missing one."""
    return -math.inf if direction == MAXIMIZE else math.inf


def common_epoch(runs: Sequence[FrozenTrial]) -> int:
    """Return the last epoch that all runs of a setting have reported; failed ones do not count."""
    from optuna.trial import TrialState

    going = [run for run in runs if run.state != TrialState.FAIL]
    return min((run.last_step or 0 for run in going), default=0)


def combined(runs: Sequence[FrozenTrial], attrs: Mapping[str, Any], direction: str) -> FrozenTrial:
    """Return a setting as one trial.

    Its value is the median over its runs, where a run without a value counts as the worst. Its
    intermediate values are the medians of the epochs that all its runs have reported. It has the
    number, id, parameters and system attributes of its first run.

    Args:
        runs: of the setting, by number.
        attrs: the pruner's notes on it.
        direction: ``minimize`` or ``maximize``.
    """
    lead = runs[0]
    state, value = _state(runs, direction)
    if len(runs) == 1 and state == lead.state and not attrs:
        return lead
    trial = copy.copy(lead)
    trial.state = state
    trial.system_attrs = {**lead.system_attrs, **attrs}
    trial.intermediate_values = _intermediate(runs, direction)
    trial.values = None if value is None else [value]
    return trial


def _state(runs: Sequence[FrozenTrial], direction: str) -> tuple[TrialState, float | None]:
    from optuna.trial import TrialState

    states = {run.state for run in runs}
    if not all(state.is_finished() for state in states):
        # for the sampler, one that was interrupted is still running
        begun = any(CLAIM in run.user_attrs or run.state.is_finished() for run in runs)
        return (TrialState.RUNNING if begun else TrialState.WAITING), None
    if TrialState.PRUNED in states:
        steps = _intermediate(runs, direction)
        return TrialState.PRUNED, steps[max(steps)] if steps else None
    value = statistics.median(final_value(run, direction) for run in runs)
    if math.isfinite(value):
        return TrialState.COMPLETE, value
    return TrialState.FAIL, None


def final_value(run: FrozenTrial, direction: str) -> float:
    """Return a run's value, or the worst if it has none."""
    from optuna.trial import TrialState

    value = run.value if run.state == TrialState.COMPLETE else None
    return worst(direction) if value is None else value


def _intermediate(runs: Sequence[FrozenTrial], direction: str) -> dict[int, float]:
    from optuna.trial import TrialState

    going = [run.intermediate_values for run in runs if run.state != TrialState.FAIL]
    if not going:
        return {}
    failed = [worst(direction)] * (len(runs) - len(going))
    epochs = sorted(set(going[0]).intersection(*going[1:]))
    medians = {e: statistics.median([values[e] for values in going] + failed) for e in epochs}
    return {epoch: value for epoch, value in medians.items() if math.isfinite(value)}


class View:
    """A storage that shows settings instead of runs, and otherwise passes calls on.

    Attributes:
        shown: the settings' trials, by number.
        noted: a pruner's notes by trial id, kept here instead of being written; None: written.
    """

    def __init__(self, storage: BaseStorage, name: str, direction: str, study_id: int) -> None:
        from optuna.study import StudyDirection

        self._storage, self._name, self._study_id = storage, name, study_id
        self._direction = StudyDirection[direction.upper()]
        self.shown: list[FrozenTrial] = []
        self.noted: dict[int, dict[str, Any]] | None = None

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        found = [t for t in self.shown if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self.noted is None:
            self._storage.set_trial_system_attr(trial_id, key, value)
        else:
            self.noted.setdefault(trial_id, {})[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return [self._direction]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def _study(view: View, sampler: BaseSampler, pruner: BasePruner | None) -> optuna.Study:
    import optuna

    storage = cast("BaseStorage", view)
    return optuna.Study(view._name, storage, sampler, pruner or optuna.pruners.NopPruner())


# --- drawing --------------------------------------------------------------------------------------


def distributions(
    intervals: Mapping[str, Interval], lists: Mapping[str, Sequence[str]]
) -> dict[str, BaseDistribution]:
    """Return the searched space in Optuna's terms: intervals are numbers, lists choices."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, interval in intervals.items():
        if interval.whole:
            low, high = int(interval.low), int(interval.high)
            found[key] = IntDistribution(low, high, log=interval.log)
        else:
            found[key] = FloatDistribution(interval.low, interval.high, log=interval.log)
    for key, texts in lists.items():
        found[key] = CategoricalDistribution([spaces.value(text) for text in texts])
    return found


def draw(
    view: View,
    trial: FrozenTrial,
    node: Mapping[str, Any],
    seed: int,
    index: int,
    space: Mapping[str, BaseDistribution],
) -> dict[str, Any]:
    """Draw the parameters of a setting, the same ones for the same results, seed and index.

    Args:
        view: shows the settings so far.
        node: the sampler's config.
        index: the number of settings before this one.

    Raises:
        UserError: the sampler cannot work.
    """
    import optuna

    sampler = make_sampler(node, seed, index, space)
    study = _study(view, sampler, None)
    params: dict[str, Any] = {}
    if isinstance(sampler, optuna.samplers.CmaEsSampler):
        for shown in view.shown:
            cmaes_state.check(shown.system_attrs)
    with _told(node, "sampler"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user need not see a sampler's numerical warnings
        sampler.before_trial(study, trial)
        relative = sampler.infer_relative_search_space(study, trial)
        found = sampler.sample_relative(study, trial, relative)
        for key, distribution in space.items():
            if distribution.single():
                params[key] = distribution.to_external_repr(_lowest(distribution))
            elif key in found and distribution._contains(distribution.to_internal_repr(found[key])):
                params[key] = found[key]
            else:
                params[key] = sampler.sample_independent(study, trial, key, distribution)
    return params


def _lowest(distribution: BaseDistribution) -> float:
    return float(getattr(distribution, "low", 0))  # for a choice, the index of the first one


def make_sampler(
    node: Mapping[str, Any], seed: int, index: int, space: Mapping[str, BaseDistribution]
) -> BaseSampler:
    """Make a sampler for one setting.

    A seeded sampler repeats itself after a restart and draws alike in all workers. So each setting
    gets a sampler and a seed of its own.

    Raises:
        UserError: it cannot be made from this config.
    """
    import optuna

    base = seed if node.get("seed") is None else node["seed"]
    target = str(node.get("_target_"))
    short = target.rpartition(".")[2]
    package = _PACKAGES.get(short)
    if package is not None and importlib.util.find_spec(package) is None:
        raise UserError(f"sampler: {short} needs {package}; pip install {package}")
    own = int.from_bytes(hashlib.sha256(f"{base} {index}".encode()).digest()[:4])
    given: dict[str, Any] = {}
    with _told(node, "sampler"):
        if "seed" in inspect.signature(located(target)).parameters:
            given["seed"] = base if short == "QMCSampler" else own
        sampler = _instantiated(node, given)
    if isinstance(sampler, optuna.samplers.QMCSampler):
        # The sequence's next point is a count that workers share and a kill may skip. A setting's
        # number does as well, and its space is known from the first one on.
        known = {key: d for key, d in space.items() if not d.single()}
        vars(sampler).update(
            _find_sample_id=lambda study, space: index,
            infer_relative_search_space=lambda study, trial: known,
        )
    return sampler


def _instantiated(node: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        settings = {k: v for k, v in node.items() if k not in HYDRA_KEYS}
        if any(isinstance(value, Mapping | list) for value in settings.values()):
            return instantiate({**node, **given}, _convert_="all")
        # nothing inside needs Hydra: the same result without its 10 ms for each setting drawn
        return located(str(node["_target_"]))(**{**settings, **given})


@contextlib.contextmanager
def _told(node: Mapping[str, Any], group: str) -> Iterator[None]:
    """Turn any error in a sampler or pruner into one line that names it."""
    try:
        yield
    except UserError:
        raise
    except (ImportError, TypeError, ValueError, AttributeError, hydra_error()) as error:
        cause = error.__cause__ or error
        name = str(node.get("_target_")).rpartition(".")[2]
        if isinstance(cause, ImportError) and cause.name:
            what = f"needs {cause.name}; pip install {cause.name}"
        else:
            what = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise UserError(f"{group}: {name}: {what}") from error


# --- pruning --------------------------------------------------------------------------------------


def make_pruner(node: Mapping[str, Any]) -> BasePruner | None:
    """Make the pruner of a config; None if nothing is pruned.

    Raises:
        UserError: it cannot be made from this config.
    """
    import optuna

    with _told(node, "pruner"):
        pruner = _instantiated(node, {})
    if not isinstance(pruner, optuna.pruners.BasePruner):
        raise UserError(f"pruner: {node.get('_target_')} is no pruner of Optuna")
    return None if isinstance(pruner, optuna.pruners.NopPruner) else pruner


def judge(
    view: View, pruner: BasePruner, wave: Sequence[FrozenTrial]
) -> dict[int, tuple[bool, dict[str, Any]]]:
    """Decide which of the settings that reached an epoch together are pruned.

    Lanes reach an epoch all at once, but successive halving expects one after another. It would
    keep the first of them, and of the others only those better than all before. So each is judged
    against all of the wave, in no order.

    Returns:
        For each trial's number whether it is pruned, and the pruner's notes on it.
    """
    import optuna

    study = _study(view, optuna.samplers.RandomSampler(), pruner)
    before = list(view.shown)
    try:
        first = {t.number: _judged(view, study, pruner, t) for t in wave}
        if not any(notes for _, notes in first.values()):
            return first
        noted = {
            trial.number: _with_attrs(trial, first[trial.number][1])
            for trial in wave
            if first[trial.number][1]
        }
        found = {}
        for trial in wave:
            others = {n: t for n, t in noted.items() if n != trial.number}
            view.shown = [others.get(t.number, t) for t in before]
            found[trial.number] = _judged(view, study, pruner, trial)
        return found
    finally:
        view.shown = before


def _judged(
    view: View, study: optuna.Study, pruner: BasePruner, trial: FrozenTrial
) -> tuple[bool, dict[str, Any]]:
    view.noted = {}
    try:
        verdict = pruner.prune(study, trial)
        return verdict, view.noted.get(trial._trial_id, {})
    finally:
        view.noted = None


def _with_attrs(trial: FrozenTrial, attrs: Mapping[str, Any]) -> FrozenTrial:
    changed = copy.copy(trial)
    changed.system_attrs = {**trial.system_attrs, **attrs}
    return changed
