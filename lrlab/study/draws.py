"""Draw settings with the sampler, and judge them with the pruner."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrlab.config import space as spaces
from lrlab.study import sampling
from lrlab.study.points import SEED, Points, Request
from lrlab.study.sampling import OVERRIDES
from lrlab.study.storage import OpenStudy

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_NOTES = "lrlab:setting:"  # the study's system attribute of a setting: its judgements


@dataclass(frozen=True)
class Notes:
    """The judgements of a setting.

    Attributes:
        judged: the last epoch at which it was judged.
        pruned: the epoch at which it was pruned.
        attrs: the pruner's notes on it.
    """

    judged: int = 0
    pruned: int | None = None
    attrs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def prunes(self, epoch: int) -> bool:
        """Return whether a run of it that reports this epoch ends there."""
        return self.pruned is not None and epoch >= self.pruned


class Draws:
    """The sampler and the pruner of a sweep, at work on its study.

    Attributes:
        distributions: what a search draws from, in Optuna's terms; none in a grid.
    """

    def __init__(self, study: OpenStudy, points: Points, request: Request) -> None:
        self._study, self._points, self._request = study, points, request
        self._prunes = sampling.make_pruner(request.pruner) is not None
        self.distributions: dict[str, BaseDistribution] = {}
        self._choices: dict[str, list[str]] = {}

    def choose_from(self, choices: dict[str, list[str]]) -> None:
        """Set the texts of the searched lists, in the study's order."""
        if self._points.space.searched:
            self._choices = choices
            self.distributions = sampling.distributions(self._points.space.intervals, choices)

    def draw(self, run: FrozenTrial, runs: Sequence[FrozenTrial]) -> None:
        """Give a searched run its overrides: drawn, or those of its setting's first run."""
        groups = sampling.groups(runs)
        lead = groups[sampling.setting_of(run)][0]
        if sampling.drawn(lead):
            swept = {k: v for k, v in lead.user_attrs[OVERRIDES].items() if k != "seed"}
        else:
            view = self._view(runs, self.notes())
            trial = next(t for t in view.shown if t.number == lead.number)
            index = sampling.setting_of(lead)
            params = sampling.draw(
                view, trial, self._request.sampler, self._points.seed, index, self.distributions
            )
            swept = {key: self._text(key, params[key]) for key in self.distributions}
        given = {"seed": run.user_attrs[SEED]} if SEED in run.user_attrs else {}
        # Written first and at once: a worker that dies leaves no half a draw.
        self._study.storage.set_trial_user_attr(run._trial_id, OVERRIDES, {**swept, **given})
        for key, distribution in self.distributions.items():
            if key not in run.params:
                internal = distribution.to_internal_repr(self._param(key, swept[key]))
                self._study.storage.set_trial_param(run._trial_id, key, internal, distribution)

    def _text(self, key: str, value: Any) -> str:
        interval = self._points.space.intervals.get(key)
        if interval is None:
            index = self.distributions[key].to_internal_repr(value)
            return self._choices[key][int(index)]
        inside = min(max(value, interval.low), interval.high)
        return spaces.text(int(inside) if interval.whole else float(inside))

    def _param(self, key: str, text: str) -> Any:
        value = spaces.value(text)
        if key in self._points.space.intervals and not self._points.space.intervals[key].whole:
            return float(value)
        return value

    def _view(self, runs: Sequence[FrozenTrial], notes: Mapping[int, Notes]) -> sampling.View:
        study = self._study
        view = sampling.View(study.storage, study.name, study.direction, study.id)
        view.shown = [
            sampling.combined(group, notes.get(setting, Notes()).attrs, study.direction)
            for setting, group in sampling.groups(runs).items()
        ]
        view.shown.sort(key=lambda trial: trial.number)
        return view

    def report(self, values: Mapping[int, tuple[int, float]]) -> set[int]:
        """Note the runs' results, and return those to prune; see ``Queue.report``."""
        from optuna.exceptions import UpdateFinishedTrialError

        for number, (epoch, value) in values.items():
            if math.isfinite(value):
                try:
                    self._study.storage.set_trial_intermediate_value(
                        self._study.trial_id(number), epoch, value
                    )
                except UpdateFinishedTrialError:  # another worker has finished it
                    continue
        if not self._prunes:
            return set()
        runs = self._study.runs()
        notes = self._judge(runs, {sampling.setting_of(runs[number]) for number in values})
        return {
            number
            for number, (epoch, _) in values.items()
            if notes[sampling.setting_of(runs[number])].prunes(epoch)
        }

    def _judge(self, runs: Sequence[FrozenTrial], settings: set[int]) -> dict[int, Notes]:
        """Judge settings at the last epoch that all their runs have reported, each epoch once."""
        groups = sampling.groups(self._points.wanted(runs))
        notes = self.notes()
        notes |= {setting: Notes() for setting in settings if setting not in notes}
        view = self._view(self._points.wanted(runs), notes)
        shown = {trial.number: trial for trial in view.shown}
        wave = {}
        for setting in sorted(settings):
            trial = shown[groups[setting][0].number]
            epoch = trial.last_step or 0
            if epoch > notes[setting].judged and notes[setting].pruned is None:
                wave[setting] = trial
        pruner = sampling.make_pruner(self._request.pruner)
        if not wave or pruner is None:
            return notes
        verdicts = sampling.judge(view, pruner, list(wave.values()))
        for setting, trial in wave.items():
            prune, noted = verdicts[trial.number]
            epoch = trial.last_step or 0
            notes[setting] = Notes(
                epoch, epoch if prune else None, {**notes[setting].attrs, **noted}
            )
            self._study.set(f"{_NOTES}{setting}", dataclasses.asdict(notes[setting]))
        return notes

    def notes(self) -> dict[int, Notes]:
        """Return the judgements of each setting."""
        attrs = self._study.attrs()
        found = {k.removeprefix(_NOTES): v for k, v in attrs.items() if k.startswith(_NOTES)}
        return {int(setting): Notes(**noted) for setting, noted in found.items()}

    def epochs(
        self,
        run: FrozenTrial,
        groups: Mapping[int, Sequence[FrozenTrial]],
        notes: Mapping[int, Notes],
    ) -> int:
        """Return the epochs that a run need not report again.

        A last report is made again if its judgement is missing or says prune.
        """
        reported = run.last_step or 0
        if not self._prunes or not reported:
            return reported
        setting = sampling.setting_of(run)
        noted = notes.get(setting, Notes())
        if noted.pruned is not None:
            return min(reported, noted.pruned - 1)
        common = sampling.common_epoch(groups.get(setting, [run]))
        return reported - 1 if reported == common > noted.judged else reported
