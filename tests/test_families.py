"""Verdicts on 500 runs whose truth is known, at four levels of information.

The truth is that of `families`: the recurrences' roots, and the mean over seeds of the noise.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers.families import RANKS, RATES, border, families, sweep

from lrlab.verdicts.judging import verdicts

pytestmark = pytest.mark.unit

LOSSES = ["run", "lr", "step", "train_loss", "initial_loss", "chance_loss"]
LEVELS = {
    "losses": LOSSES,
    "alpha": [*LOSSES, "alpha"],
    "ratio": [*LOSSES, "alpha", "stability_ratio", "swings_from"],
    "branches": [
        *(*LOSSES, "alpha", "stability_ratio", "swings_from"),
        *("gain_low", "gain_high"),
    ],
}
MOST = 5  # of the 500 may be wrong at a level
QUADRATICS = [
    name for name, family in families().items() if family.problem.curvatures is not None
    and family.optimizer.recurrence is not None
]  # fmt: skip


@pytest.fixture(scope="module")
def judged() -> Callable[[str, str], pd.DataFrame]:
    """Of a family at a level: the verdicts, a row a rate; made once."""
    made: dict[tuple[str, str], pd.DataFrame] = {}

    def of(name: str, level: str) -> pd.DataFrame:
        if (name, level) not in made:
            curves = sweep(name).curves
            seen = curves[[column for column in LEVELS[level] if column in curves]]
            made[name, level] = verdicts(seen).set_index("run").sort_index()
        return made[name, level]

    return of


Judged = Callable[[str, str], pd.DataFrame]


def outcomes(judged: Judged, level: str) -> Iterator[tuple[str, int, str, frozenset[str]]]:
    """Of each of the 500 runs: family, rate's number, outcome, what is right."""
    for name in families():
        found = judged(name, level)["outcome"]
        for i, right in enumerate(sweep(name).allowed):
            yield name, i, found[i], right


def line(name: str, i: int, found: str, right: frozenset[str] | str | None) -> str:
    return f"{name}, rate {i} ({sweep(name).lrs[i]:.3g}): {found}, not {right}"


# --- the truth itself -----------------------------------------------------------------------------


@pytest.mark.full
def test_the_truth_is_of_500_runs_and_leaves_little_open() -> None:
    allowed = [right for name in families() for right in sweep(name).allowed]
    assert len(families()) == 20 and len(allowed) == 20 * RATES
    assert all(allowed), "a run with no right answer"
    assert sum(len(right) == 1 for right in allowed) >= 0.95 * len(allowed)
    told = [min(right) for right in allowed if len(right) == 1]
    fewest = {"undershooting": 150, "converged": 50, "overshooting": 50, "diverged": 50}
    assert all(told.count(outcome) >= number for outcome, number in fewest.items())


@pytest.mark.parametrize("name", families())
def test_the_truth_is_ordered_and_has_both_ends(name: str) -> None:
    allowed = sweep(name).allowed
    lowest = [min(RANKS[outcome] for outcome in right) for right in allowed]
    highest = [max(RANKS[outcome] for outcome in right) for right in allowed]
    assert all(max(lowest[:i], default=0) <= highest[i] for i in range(RATES))
    assert allowed[0] == {"undershooting"}
    assert min(RANKS[outcome] for outcome in allowed[-1]) >= RANKS["overshooting"]
    assert frozenset({"converged"}) in allowed or any("converged" in right for right in allowed)


@pytest.mark.parametrize("name", QUADRATICS)
def test_the_ratio_is_1_where_a_root_leaves_the_unit_circle(name: str) -> None:
    """The design's formulas for GD, heavy ball and Nesterov, and where they say that steps swing.

    Against the roots of the recurrence, found numerically.
    """
    optimizer = families()[name].optimizer
    assert optimizer.recurrence is not None
    limit = border(optimizer)
    assert optimizer.per_curvature * limit == pytest.approx(1, rel=1e-6)
    from_here = optimizer.swings_from * limit
    below, above = (np.roots(optimizer.recurrence(from_here * x)) for x in (0.999, 1.001))
    assert np.all(np.abs(below.imag) < 1e-9) and np.all(below.real > 0)
    assert np.any(np.abs(above.imag) > 1e-9) or np.any(above.real < 0)
    curves = sweep(name).curves
    ratio = (curves["stability_ratio"] / curves["lr"]).dropna()
    assert ratio.to_numpy() == pytest.approx(1 / limit, rel=1e-6)


def test_alpha_is_lr_times_curvature_less_1_for_plain_steps_of_a_bowl() -> None:
    """f = ½λx², x → (1−a)x: the minimum along the step is 1/a of it away."""
    found = sweep("gd, condition 1").curves
    early = found[found["step"] < 5]
    assert early["alpha"].to_numpy() == pytest.approx(early["lr"].to_numpy() - 1, rel=1e-6)


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.full(after=2)
@pytest.mark.parametrize("level", LEVELS)
def test_at_most_5_of_500_outcomes_are_wrong(judged: Judged, level: str) -> None:
    """And none where there is no noise: there the truth is exact."""
    missed = [each for each in outcomes(judged, level) if each[2] not in each[3]]
    wrong = [line(*each) for each in missed]
    assert len(wrong) <= MOST, "\n".join([f"{len(wrong)} wrong", *wrong])
    assert all(families()[name].noise for name, *_ in missed), "\n".join(wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_outcomes_are_ordered_along_lr(judged: Judged, level: str) -> None:
    disordered = []
    for name in families():
        found = judged(name, level)["outcome"]
        ranks = [RANKS.get(outcome, -1) for outcome in found]
        if -1 in ranks or any(a > b for a, b in pairwise(ranks)):
            disordered.append(f"{name}: {' '.join(found)}")
    assert not disordered, "\n".join(disordered)


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "losses"])
def test_measurements_change_no_outcome(judged: Judged, level: str) -> None:
    """At least 98% are those of the losses alone."""
    alone = [found for _, _, found, _ in outcomes(judged, "losses")]
    changed = [
        line(name, i, found, before)
        for before, (name, i, found, _) in zip(alone, outcomes(judged, level), strict=True)
        if found != before
    ]
    assert len(changed) <= 0.02 * len(alone), "\n".join([f"{len(changed)} changed", *changed])


NOISY = [name for name, family in families().items() if family.noise]


@pytest.mark.parametrize("name", NOISY)
def test_any_seed_of_the_noise_gives_right_and_ordered_outcomes(name: str) -> None:
    """From losses alone, of three more seeds: at most 1 of 75 wrong, and none out of order."""
    truth = sweep(name)
    wrong, disordered = [], []
    for seed in range(1, 4):
        curves = truth.curves[[column for column in LOSSES if column in truth.curves]]
        seen = truth.losses[curves["step"], seed, curves["run"]]
        found = verdicts(curves.assign(train_loss=seen)).set_index("run").sort_index()["outcome"]
        each = zip(found, truth.allowed, strict=True)
        wrong += [
            line(name, i, got, right) for i, (got, right) in enumerate(each) if got not in right
        ]
        if any(RANKS[a] > RANKS[b] for a, b in pairwise(found)):
            disordered.append(f"seed {seed}: {' '.join(found)}")
    assert len(wrong) <= 1, "\n".join(wrong)
    assert not disordered, "\n".join(disordered)


@pytest.mark.parametrize("level", ["ratio", "branches"])
@pytest.mark.parametrize("name", QUADRATICS)
def test_step_modes_are_those_of_the_roots(judged: Judged, name: str, level: str) -> None:
    """All 25 rates; a run that may be called diverged may have unstable steps."""
    truth = sweep(name)
    found = judged(name, level)
    wrong = []
    for i, right in enumerate(truth.modes):
        mode, outcome = found.loc[i, "step_mode"], found.loc[i, "outcome"]
        failed = outcome in truth.allowed[i] and outcome in ("diverged", "collapsed")
        if mode != right and not (failed and mode == "unstable"):
            wrong.append(line(name, i, str(mode), right))
    assert not wrong, "\n".join(wrong)


def test_losses_alone_name_no_wrong_step_mode_of_a_bowl(judged: Judged) -> None:
    """x → (1−a)x falls as smoothly at a as at 2−a: above 1, where it swings, none may say not.

    A swing that is close to the edge may be called one: how close, no loss tells by itself.
    """
    name = "gd, condition 1"
    found = judged(name, "losses")["step_mode"]
    wrong = [
        line(name, i, found[i], right)
        for i, right in enumerate(sweep(name).modes)
        if found[i] not in ("unknown", right, "oscillating" if right == "edge" else right)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_run_alone_has_no_side() -> None:
    """Whatever its branches gain: only what failed by itself, or learned nothing, is named."""
    wrong = []
    for name in families():
        truth = sweep(name)
        columns = [column for column in LEVELS["branches"] if column in truth.curves]
        middle = next(i for i, right in enumerate(truth.allowed) if "converged" in right)
        for i in (middle, RATES - 1):
            curve = truth.curves.loc[truth.curves["run"] == i, columns]
            failed = truth.allowed[i] & {"diverged", "collapsed"}
            others = {"not compared"} if i == middle else {"not compared", "nothing learned"}
            right = failed if failed == truth.allowed[i] else failed | others
            found = verdicts(curve)["outcome"].iloc[0]
            if found not in right:
                wrong.append(line(name, i, found, right))
    assert not wrong, "\n".join(wrong)
