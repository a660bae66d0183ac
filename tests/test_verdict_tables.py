"""Verdicts of tables of every kind, good ones and bad ones."""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.curves import AT_END, LN10, MODES, OUTCOMES, by_epoch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrlab.errors import UserError
from lrlab.verdicts.judging import verdicts

pytestmark = pytest.mark.unit


def test_a_missing_loss_is_divergence_only_behind_the_last_finite_one() -> None:
    nan, steps = math.nan, range(6)
    frame = pd.DataFrame({"run": 0, "lr": 0.1, "step": steps, "train_loss": 1.0})
    sparse = frame.assign(train_loss=[2.0, nan, nan, 1.0, nan, 0.5])
    assert verdicts(sparse)["outcome"][0] != "diverged"
    gone = frame.assign(train_loss=[2.0, nan, 1.0, nan, nan, nan])
    row = verdicts(gone).iloc[0]
    assert row["outcome"] == "diverged" and row["first_nonfinite"] == 3
    assert "non-finite at step 3" in row["evidence"] and row["end_loss"] == math.inf
    # The last row of an lrlab run has an evaluation and no mini-batch loss.
    ended = frame.assign(train_loss=[2, 1.5, 1, 0.9, 0.8, nan], val_loss=[2, *[nan] * 4, 0.9])
    row = verdicts(ended).iloc[0]
    assert row["outcome"] != "diverged" and row["end_loss"] == 0.9
    infinite = frame.assign(train_loss=[2.0, math.inf, 1.0, 1.0, 1.0, 1.0])
    assert verdicts(infinite)["first_nonfinite"][0] == 1
    assert verdicts(frame.assign(first_nonfinite_step=4))["first_nonfinite"][0] == 4


def test_one_row_shows_no_direction() -> None:
    row = verdicts(pd.DataFrame({"run": ["a"], "lr": [1], "step": [0], "train_loss": [2.3]}))
    assert row["outcome"][0] == "not compared" and "only one loss" in row["evidence"][0]
    told = pd.DataFrame(
        {"run": ["a", "b"], "lr": [1, 2], "step": 90, "train_loss": [2.3, 3], "initial_loss": 5.0}
    )
    assert verdicts(told)["outcome"].tolist() == ["converged", "overshooting"]


def test_a_later_row_of_one_step_replaces_an_earlier_and_parts_of_a_row_are_joined() -> None:
    nan = math.nan
    parts = pd.DataFrame(
        {
            "run": 0,
            "lr": 0.1,
            "step": [0, 1, 1, 2, 2],
            "train_loss": [2.0, 9.0, 1.0, 0.5, nan],
            "val_loss": [2.1, nan, nan, nan, 0.6],
        }
    )
    row = verdicts(parts).iloc[0]
    assert row["peak_loss"] == 2.1 and row["end_loss"] == 0.6 and row["judged_by"] == "val_loss"


def test_negative_and_constant_and_huge_losses() -> None:
    falling = by_epoch(np.linspace(-1, -9, 30), lr=0.01)
    higher = by_epoch(np.linspace(-1, -3, 30), run=1, lr=0.001)
    found = verdicts(pd.concat([falling, higher]))
    assert list(found["outcome"]) == ["converged", "undershooting"]
    rising = verdicts(by_epoch(np.linspace(-9, -1, 30)))
    assert rising["outcome"][0] == "diverged"
    constant = verdicts(by_epoch(np.zeros(30)))
    assert constant["outcome"][0] == "nothing learned"
    assert "as before training" in constant["evidence"][0]
    huge = by_epoch(np.r_[1.0, np.full(29, 1e308)])
    assert 1e200 < verdicts(huge)["end_loss"][0] < math.inf
    by_step = pd.DataFrame({"run": 0, "lr": 1, "step": range(900), "train_loss": 1e308})
    assert math.isfinite(verdicts(by_step)["end_loss"][0]), "means of it must not overflow"


def test_steps_and_seconds_to_the_target() -> None:
    slow = by_epoch(np.linspace(2.0, 0.0, 21), seconds=np.arange(21) * 2.0)
    never = by_epoch(np.full(21, 2.0), run=1, lr=1e-9, seconds=1.0)
    found = verdicts(pd.concat([slow, never]), target=1.0)
    assert found["steps_to_target"].tolist() == [10, math.inf]
    assert found["seconds_to_target"].tolist() == [20, math.inf]
    by_itself = verdicts(pd.concat([slow, never]))
    best = found["end_loss"][0]  # the median of the last two
    assert best == pytest.approx(0.05)
    assert by_itself["target_loss"].tolist() == pytest.approx([2 - 0.95 * (2 - best)] * 2)


def test_settings_come_along_and_can_be_named() -> None:
    frame = pd.concat(
        [
            by_epoch(np.geomspace(2, 0.1, 20), schedule="step", width=8, **{"network.width": 3}),
            by_epoch(np.geomspace(2, 1.0, 20), run=1, schedule="cosine", width=9),
        ]
    )
    found = verdicts(frame)
    assert found["schedule"].tolist() == ["step", "cosine"]
    assert "network.width" in found and "width" not in found
    named = verdicts(frame, settings=["width", "seed"])
    assert named["width"].tolist() == [8, 9] and "schedule" not in named
    # of another network: not comparable, so each is the best of its own
    assert found["best_loss"].tolist() == found["end_loss"].tolist()
    assert named["best_loss"].nunique() == 1


def test_an_empty_table_has_no_verdicts_but_the_columns() -> None:
    empty = pd.DataFrame({"run": [], "lr": [], "step": [], "train_loss": []})
    found = verdicts(empty)
    assert len(found) == 0 and {"run", "outcome", "evidence", "decay_gain"} <= set(found)


GOOD = {"run": [0, 0], "lr": [0.1, 0.1], "step": [0, 1], "train_loss": [2.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": None}, "run: no such column; run, lr, train_loss and step or epoch are needed"),
        ({"lr": None}, "lr: no such column"),
        ({"train_loss": None}, "train_loss: no such column"),
        ({"step": None}, "step: no such column, nor epoch"),
        ({"run": [0, math.nan]}, "run: empty in 1 of 2 rows"),
        ({"run": [[0], [1]]}, "run: must hold numbers or names"),
        ({"lr": ["fast", 0.1]}, "lr='fast': must be a number"),
        ({"lr": [-1, -1]}, "lr=-1 of run 0: must be a finite number, not below 0"),
        ({"lr": [0.1, 0.2]}, "lr=0.2 of run 0: is 0.1 in another row; give each run one lr"),
        ({"train_loss": [1.0, "high"]}, "train_loss='high': must be a number"),
        ({"val_loss": [True, False]}, "val_loss: holds bool; must hold numbers"),
        ({"num_classes": [1, 1]}, "num_classes=1 of run 0: must be 2 or more"),
    ],
)
def test_a_bad_table_is_one_line(change: dict[str, Any], message: str) -> None:
    columns = {**GOOD, **change}
    frame = pd.DataFrame({name: values for name, values in columns.items() if values is not None})
    with pytest.raises(UserError) as error:
        verdicts(frame)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_column_twice_and_a_setting_that_is_not_there_are_the_users_errors() -> None:
    frame = pd.DataFrame(GOOD)
    twice = pd.concat([frame, frame[["train_loss"]]], axis=1)
    with pytest.raises(UserError, match="train_loss: two columns have this name"):
        verdicts(twice)
    with pytest.raises(UserError, match="schedule: no such column"):
        verdicts(frame, settings=["schedule"])


def test_text_numbers_and_words_for_missing_are_read() -> None:
    text = {"run": ["a", "a"], "lr": ["1e-1", "0.1"], "step": ["0", "1"]}
    found = verdicts(pd.DataFrame({**text, "train_loss": ["2.0", " 1.0"], "val_loss": ["", "NA"]}))
    assert found["lr"][0] == 0.1 and found["end_loss"][0] == 1.0


numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1.0, 2.3, LN10, 1e38, -1e38, math.nan, math.inf, 5e-324]),
)
positions = st.one_of(st.integers(-2, 12).map(float), numbers)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.integers(0, 25))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    columns: dict[str, list[Any]] = {
        "run": column(st.integers(0, 3)),
        "train_loss": column(numbers),
        "step": column(positions),
    }
    of_run = draw(st.lists(st.sampled_from([0.0, 1e-3, 0.1, 1.0, 1e300]), min_size=4, max_size=4))
    columns["lr"] = [of_run[run] for run in columns["run"]]
    optional: dict[str, st.SearchStrategy[Any]] = {
        "epoch": positions,
        **dict.fromkeys(
            ["val_loss", "alpha", "stability_ratio", "grad_norm", "seconds", "initial_loss"],
            numbers,
        ),
        **dict.fromkeys(["gain_low", "gain_high", "gain_noise", "chance_loss"], numbers),
        **dict.fromkeys(
            ["first_nonfinite_step", "swings_from", "lr_at_step", "test_loss"], numbers
        ),
        "seed": st.integers(0, 1),
        "num_classes": st.sampled_from([2, 10, 1, math.nan]),
        "state": st.sampled_from([None, "finished", "pruned", "failed", "diverged", "odd"]),
        "schedule": st.sampled_from(["fixed", "step", None]),
    }
    for name in draw(st.sets(st.sampled_from(sorted(optional)))):
        columns[name] = column(optional[name])
    return pd.DataFrame(columns)


@pytest.mark.full
@settings(
    max_examples=80,
    deadline=None,
    database=None,  # it would lie in the repository
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(tables())
def test_any_table_gives_a_verdict_for_each_run_or_one_line(frame: pd.DataFrame) -> None:
    from lrlab.verdicts.printed.answer_words import text
    from lrlab.verdicts.recommend import recommend

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = verdicts(frame)
        except UserError as error:
            assert "\n" not in str(error)
            return
        answers = recommend(found)
    assert sorted(found["run"]) == sorted(set(frame["run"]))
    assert set(found["outcome"]) <= OUTCOMES and set(found["step_mode"]) <= MODES
    assert set(found["at_end"]) <= AT_END
    assert all(isinstance(each, str) and each for each in found["evidence"])
    if "epoch" not in frame and not frame.duplicated(["run", "step"]).any():
        exploded = frame["train_loss"].abs().eq(math.inf) & np.isfinite(frame["step"])
        diverged = set(found["run"][found["outcome"] == "diverged"])
        assert set(frame["run"][exploded]) <= diverged
    assert text(answers)


def test_curves_that_went_wrong_in_public() -> None:
    """The last row has a test loss only; a loss of NaN was written as 0."""
    falling = pd.DataFrame({"run": 0, "lr": 0.1, "step": range(11), "test_loss": math.nan})
    falling = falling.assign(train_loss=2.3 * 0.8 ** np.arange(11))
    falling.loc[10, ["train_loss", "test_loss"]] = [math.nan, 0.3]
    row = verdicts(falling).iloc[0]
    assert row["outcome"] == "not compared" and row["end_loss"] == pytest.approx(2.3 * 0.8**9)
    assert verdicts(falling.drop(columns="test_loss"))["outcome"][0] == "diverged"

    steps = np.arange(0, 50, 10)
    lost = {"train_loss": [2.3, 1.9, 0, 0, 0], "grad_norm": [1.2, 3.4, *[math.nan] * 3]}
    fine = {"train_loss": [2.3, 1.9, 1.5, 1.2, 0.9], "grad_norm": 1.1}
    frame = pd.concat(
        [
            pd.DataFrame({"run": "a", "lr": 1e-3, "step": steps, **lost}),
            pd.DataFrame({"run": "b", "lr": 1e-4, "step": steps, **fine}),
        ]
    )
    found = verdicts(frame)
    assert found["outcome"].tolist() == ["diverged", "converged"]
    assert found["first_nonfinite"][0] == 20
    sparse = frame.assign(grad_norm=[1.2, *[math.nan] * 9])
    assert verdicts(sparse)["outcome"].tolist() == ["converged", "undershooting"], "not measured"
