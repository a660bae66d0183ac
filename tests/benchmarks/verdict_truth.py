"""Whether the words of a verdict are true: judged from one seed, held against ten.

    python tests/benchmarks/verdict_truth.py FOLDER
    python tests/benchmarks/verdict_truth.py FOLDER --problems sgd,adam --json counts.json

Seven problems, each a sweep of lr with ten seeds, are trained into FOLDER (some twenty minutes
of one core). What is there already is not trained again but judged again: so a change to
`lrlab/verdicts/judging.py` or `lrlab/verdicts/recommend.py` is measured in half a minute, on the
same curves.

The truth is a few lines of numpy. At each lr it takes the mean of the ten end losses (column
`end_loss` of `lrlab.verdicts.judging.verdicts`), and a seed that failed counts as infinitely bad.
The best lr is that with the lowest mean. Every verdict under test sees the curves of one seed only.

Columns of the table, a row a problem:

    lrs         how many lrs the sweep has
    best        the truly best lr
    over        runs called overshooting
    wrong       of these, how many have the truly best lr above them, and a mean at their own lr
                that is more than 5% worse than the best: the word points the wrong way
    under       runs called undershooting
    wrong       of these, the same with the truly best lr below them
    best conv   of the runs at the truly best lr, one a seed, how many are called converged
    near conv   the same of all runs at an lr whose mean is within 2% of the best
    agree       runs whose outcome is the same with and without what was measured: alpha, the
                stability ratio, the branch test and their like
    disorder    runs out of order along lr, by seed: the fewest that one must leave out for
                undershooting, converged, overshooting, failed to follow each other
    by train    the same where no val loss is there and train losses alone are judged
    no side     runs with another word than these: not compared, nothing learned, ...
    regret      log(mean at the recommended lr / mean at the best), over the seeds' means
    max         the largest of the seeds' regrets
    in range    seeds in whose recommended range `as_good` the truly best lr lies
    none        seeds for which no lr is recommended; they have no regret and no range
    edge        sweeps cut off on purpose (only rates up to a third of the best; only from three
                times the best) of which the answer says so: by `edge`, or by recommending nothing
                and a next range on that side. Counted are those whose seed has its lowest end loss
                at that edge, or no finite one
    next        of those that say it, in how many the truly best lr lies in the next range

``--details`` says of each problem which runs went against a bar.
It ends with 0, whether the bars are met or not: it measures.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer


WORSE = 1.05  # times the best mean: from here on a label on the wrong side is wrong
NEAR = 1.02  # times the best mean: up to here an lr is as good as the best
CUT = 3.0  # how far from the best a sweep that is cut off begins or ends

# Outcomes along lr. Those that are not here name no side.
PLACE = {"undershooting": 0, "converged": 1, "overshooting": 2, "collapsed": 3, "diverged": 3}
VALIDATED = ("val_loss", "val_acc")
MEASURED = (
    *("alpha", "alpha_probe", "stability_ratio", "sharpness", "grad_norm", "update_ratio"),
    *("distance", "gain_low", "gain_high", "gain_noise"),
)


# --- the truth, and what is held against it -------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What the seeds say together.

    Attributes:
        mean: of the end losses, by lr, lrs ascending; inf where a seed failed.
        median: of the same.
    """

    mean: Mapping[float, float]
    median: Mapping[float, float]

    @property
    def best(self) -> float:
        """The lr with the lowest mean."""
        return min(self.mean, key=self.mean.__getitem__)

    def worse(self, lr: float, by_median: bool = False) -> float:
        """How many times the best loss that at this lr is; at the best lr itself 1."""
        ends = self.median if by_median else self.mean
        return ends[lr] / min(ends.values())

    @property
    def near(self) -> list[float]:
        """The lrs that are as good as the best."""
        return [lr for lr in self.mean if self.worse(lr) <= NEAR]


def truth(judged: pd.DataFrame) -> Truth:
    """The truth of a sweep, of positive losses.

    judged: a row a run: lr, end_loss (NaN or inf: it failed).
    """
    ends: dict[float, list[float]] = {}
    for lr, end in zip(judged["lr"], judged["end_loss"], strict=True):
        ends.setdefault(float(lr), []).append(math.inf if math.isnan(end) else float(end))
    ends = dict(sorted(ends.items()))
    means = {lr: float(np.mean(each)) for lr, each in ends.items()}
    return Truth(means, {lr: float(np.median(each)) for lr, each in ends.items()})


def points_wrong(outcome: str, lr: float, true: Truth, by_median: bool = False) -> bool:
    """Whether a word sends its reader away from the best lr, where that costs something."""
    ends = true.median if by_median else true.mean
    best = min(ends, key=ends.__getitem__)
    is_other_side = {"overshooting": best > lr, "undershooting": best < lr}
    return is_other_side.get(outcome, False) and true.worse(lr, by_median) > WORSE


def out_of_order(outcomes: Iterable[str]) -> int:
    """The fewest of the outcomes, in the order of lr, without which the rest are ordered.

    Outcomes without a place are not heard.
    """
    longest = [0] * (1 + max(PLACE.values()))  # ordered ones that end at this place
    places = [PLACE[outcome] for outcome in outcomes if outcome in PLACE]
    for place in places:
        longest[place] = 1 + max(longest[: place + 1])
    return len(places) - max(longest)


def differing(one: pd.DataFrame, other: pd.DataFrame) -> list[tuple[float, str, str]]:
    """Of the runs that have another outcome in the other table: lr, and both outcomes."""
    outcomes = dict(zip(other["run"], other["outcome"], strict=True))
    runs = zip(one["run"], one["lr"], one["outcome"], strict=True)
    return [(lr, word, outcomes[run]) for run, lr, word in runs if outcomes[run] != word]


def cut(curves: pd.DataFrame, best: float, side: str) -> pd.DataFrame:
    """The runs that a sweep would have that stops short of the best ("high"), or begins beyond.

    side: on which the best lies of what is left.
    """
    return curves[curves["lr"] * CUT <= best if side == "high" else curves["lr"] >= CUT * best]


def edge_is_due(judged: pd.DataFrame, side: str) -> bool:
    """Whether the lowest end loss is at that edge, or none is finite.

    A seed whose lowest end loss lies elsewhere by chance cannot know of the edge.
    """
    lrs = judged["lr"].to_numpy(float)
    ends = judged["end_loss"].fillna(math.inf).to_numpy(float)
    edge = lrs.max() if side == "high" else lrs.min()
    return not np.isfinite(ends).any() or ends[lrs == edge].min() == ends.min()


def edge_is_said(answer: Answer, side: str, lrs: Sequence[float]) -> bool:
    """Whether the answer sends its reader over that edge of the lrs tried."""
    if answer.best_lr is not None:
        return answer.edge in (side, "both")
    if answer.try_next is None:
        return False
    low, high = answer.try_next
    return high > max(lrs) if side == "high" else low < min(lrs)


@dataclass(frozen=True)
class Counts:
    """What was counted, of one problem or of all; the columns are described above."""

    seeds: int = 0
    runs: int = 0
    over: int = 0
    over_wrong: int = 0
    over_wrong_by_median: int = 0
    under: int = 0
    under_wrong: int = 0
    under_wrong_by_median: int = 0
    best: int = 0
    best_converged: int = 0
    best_within: int = 0
    near: int = 0
    near_converged: int = 0
    agree: int = 0
    disorder: int = 0
    disorder_by_train: int = 0
    no_side: int = 0
    regrets: tuple[float, ...] = ()
    in_range: int = 0
    not_recommended: int = 0
    edges_due: int = 0
    edges_said: int = 0
    next_holds_best: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()  # a line for each thing that went against a bar

    def __add__(self, other: Counts) -> Counts:
        mine, others = vars(self), vars(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})


def counted(
    seed: pd.DataFrame,
    true: Truth,
    judge: Callable[[pd.DataFrame], pd.DataFrame],
    recommend: Callable[[pd.DataFrame], list[Answer]],
) -> Counts:
    """What one seed's curves are said to be, counted.

    Args:
        seed: the curves of one seed, as from `lrlab.analysis.curves`.
        judge: `lrlab.verdicts.judging.verdicts`.
        recommend: `lrlab.verdicts.recommend.recommend`.
    """
    judged = judge(seed).sort_values(by="lr")
    lrs, outcomes = [float(lr) for lr in judged["lr"]], list(judged["outcome"])
    labels = list(zip(lrs, outcomes, strict=True))

    def labelled(word: str, among: Sequence[float] = lrs) -> int:
        return sum(outcome == word and lr in among for lr, outcome in labels)

    def wrong(word: str, by_median: bool = False) -> int:
        return sum(o == word and points_wrong(o, lr, true, by_median) for lr, o in labels)

    def without(names: Sequence[str]) -> pd.DataFrame:
        return judge(seed.drop(columns=[name for name in names if name in seed]))

    unmeasured = differing(judged, without(MEASURED))
    by_train = list(without(VALIDATED).sort_values(by="lr")["outcome"])
    answer = recommend(judged)[0]
    within = WORSE * judged["end_loss"].min()
    regrets = () if answer.best_lr is None else (math.log(true.worse(answer.best_lr)),)
    low, high = answer.as_good or (math.nan, math.nan)

    notes = [
        f"lr {lr:g} is called {o}, and {true.worse(lr):.3g} times worse than {true.best:g}"
        for lr, o in labels
        if points_wrong(o, lr, true)
    ]
    notes += [
        f"lr {lr:g} is truly the best, and called {o}"
        for lr, o in labels
        if lr == true.best and o != "converged"
    ]
    notes += [f"lr {lr:g} is {one}, without measurements {other}" for lr, one, other in unmeasured]
    for kind, words in (("val", outcomes), ("train", by_train)):
        if out_of_order(words):
            notes.append(f"out of order by {kind} loss: {', '.join(words)}")
    due = said = held = 0
    for side in ("high", "low"):
        part = cut(seed, true.best, side)
        if part.empty or not edge_is_due(judged_part := judge(part), side):
            continue
        due += 1
        told = recommend(judged_part)[0]
        if not edge_is_said(told, side, list(judged_part["lr"])):
            said_instead = told.refusal or f"lr={told.best_lr:g}, edge={told.edge!r}"
            notes.append(f"cut off at the {side} end: {said_instead}, next {told.try_next}")
        else:
            said += 1
            held += told.try_next is not None and told.try_next[0] <= true.best <= told.try_next[1]

    return Counts(
        seeds=1,
        runs=len(judged),
        over=labelled("overshooting"),
        over_wrong=wrong("overshooting"),
        over_wrong_by_median=wrong("overshooting", by_median=True),
        under=labelled("undershooting"),
        under_wrong=wrong("undershooting"),
        under_wrong_by_median=wrong("undershooting", by_median=True),
        best=lrs.count(true.best),
        best_converged=labelled("converged", [true.best]),
        best_within=int((judged["end_loss"][judged["lr"] == true.best] <= within).sum()),
        near=sum(lr in true.near for lr in lrs),
        near_converged=labelled("converged", true.near),
        agree=len(judged) - len(unmeasured),
        disorder=out_of_order(outcomes),
        disorder_by_train=out_of_order(by_train),
        no_side=sum(outcome not in PLACE for outcome in outcomes),
        regrets=regrets,
        in_range=int(low <= true.best <= high),
        not_recommended=int(not regrets),
        edges_due=due,
        edges_said=said,
        next_holds_best=held,
        outcomes=Counter(outcomes),
        notes=tuple(f"seed {seed['seed'].iloc[0]:g}: {note}" for note in notes),
    )


# --- the table and the bars -----------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    name: str
    part: int
    whole: int
    bound: float  # a share
    at_least: bool

    @property
    def is_met(self) -> bool:
        share = self.part / self.whole if self.whole else float(self.at_least)
        return share >= self.bound if self.at_least else share <= self.bound

    def __str__(self) -> str:
        share = f"{self.part / self.whole:.2%}" if self.whole else "-"
        bound = f"{'at least' if self.at_least else 'at most'} {self.bound:.2%}"
        met = "ok" if self.is_met else "MISSED"
        return f"{self.name}: {self.part} of {self.whole}, {share} (bar: {bound}) {met}"


def bars(c: Counts) -> list[Bar]:
    """The bars, each with the counts of all problems together."""
    return [
        Bar("out of order along lr, by val loss", c.disorder, c.runs, 2 / 432, False),
        Bar("out of order along lr, by train loss", c.disorder_by_train, c.runs, 2 / 432, False),
        Bar("overshooting points the wrong way", c.over_wrong, c.over, 0.02, False),
        Bar("undershooting points the wrong way", c.under_wrong, c.under, 0.02, False),
        Bar("the truly best lr is called converged", c.best_converged, c.best, 0.9, True),
        Bar("the same outcome without measurements", c.agree, c.runs, 0.98, True),
        Bar("an edge is said", c.edges_said, c.edges_due, 1.0, True),
    ]


def cells(name: str, lrs: str, best: str, c: Counts) -> list[str]:
    mean, most = (np.mean(c.regrets), max(c.regrets)) if c.regrets else (math.nan, math.nan)
    return [
        *(name, lrs, best),
        *(str(c.over), str(c.over_wrong), str(c.under), str(c.under_wrong)),
        *(f"{c.best_converged}/{c.best}", f"{c.near_converged}/{c.near}"),
        *(f"{c.agree}/{c.runs}", str(c.disorder), str(c.disorder_by_train), str(c.no_side)),
        *(f"{mean:.3f}", f"{most:.3f}", f"{c.in_range}/{c.seeds}", str(c.not_recommended)),
        *(f"{c.edges_said}/{c.edges_due}", f"{c.next_holds_best}/{c.edges_said}"),
    ]


COLUMNS = (
    *("problem", "lrs", "best", "over", "wrong", "under", "wrong", "best conv", "near conv"),
    *("agree", "disorder", "by train", "no side", "regret", "max", "in range", "none"),
    *("edge", "next"),
)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """The same as JSON knows it: inf as a text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def judged_again(folder: Path) -> tuple[Truth, Counts]:
    """The truth of a sweep, and what each of its seeds is said to be."""
    from lrlab.tables import frames
    from lrlab.verdicts.judging import verdicts
    from lrlab.verdicts.recommend import recommend

    curves = frames.curves(folder)
    true = truth(verdicts(curves))
    seeds = [curves[curves["seed"] == seed] for seed in sorted(set(curves["seed"]))]
    return true, sum((counted(each, true, verdicts, recommend) for each in seeds), Counts())


def main() -> None:
    from measure import machine
    from verdict_problems import PROBLEMS, trained

    parser = argparse.ArgumentParser(
        description="whether the words of a verdict, judged from one seed, are true of ten"
    )
    parser.add_argument("folder", type=Path, help="of the trained sweeps; filled where they lack")
    parser.add_argument("--problems", default=",".join(PROBLEMS), help="some of them, by commas")
    parser.add_argument("--threads", type=int, default=1, help="of training (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    parser.add_argument("--details", action="store_true", help="what went against a bar, by run")
    arguments = parser.parse_args()
    names = arguments.problems.split(",")
    if unknown := [name for name in names if name not in PROBLEMS]:
        parser.error(f"--problems: no such problem: {unknown[0]}; there are {', '.join(PROBLEMS)}")

    print(machine())
    folder = arguments.folder.absolute()
    rows, of_each, total = [list(COLUMNS)], {}, Counts()
    for name in names:
        true, counts = judged_again(trained(name, folder, arguments.threads))
        total += counts
        rows.append(cells(name, str(len(true.mean)), f"{true.best:g}", counts))
        of_each[name] = {"best_lr": true.best, "mean": true.mean, "median": true.median}
        of_each[name] |= vars(counts)
        if arguments.details:
            print(f"{name}: {dict(counts.outcomes.most_common())}")
            print("".join(f"    {note}\n" for note in counts.notes))
    print(aligned([*rows, cells("total", "", "", total)]))
    print()
    for bar in bars(total):
        print(bar)
    print(
        f"What one seed can know: {total.best_within} of the {total.best} runs at the truly best lr"
        f" end within {WORSE - 1:.0%} of the lowest end loss of their seed"
    )
    if arguments.json is not None:
        met = [{**vars(bar), "met": bar.is_met} for bar in bars(total)]
        told = plain({"problems": of_each, "total": vars(total), "bars": met})
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
