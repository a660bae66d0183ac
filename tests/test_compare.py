"""`python -m lrlab.compare`: differences, tables and figures of sweeps whose runs are known."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.drawn import written
from helpers.judged import CONFIG, called, falling, make_sweep, write_run

from lrlab import compare, plots
from lrlab.comparison import by_lr, differences
from lrlab.comparison.by_lr import told_apart
from lrlab.comparison.reading import read
from lrlab.comparison.words import text
from lrlab.tables import sweep_settings

NARROW = CONFIG.format(name="narrow", hidden=[64, 64], momentum=0.0)
WIDE = CONFIG.format(name="wide", hidden=[512], momentum=0.0)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    a = {0.01: [1.5, 1.52, 1.48], 0.1: [0.20, 0.21, 0.19], 1.0: [math.inf, 0.9, math.inf]}
    b = {0.1: [0.10, 0.11, 0.09], 0.3: [0.15, 0.16, 0.14]}
    wide = {"environment": {"torch": "2.10", "device": "cpu", "threads": 1}}
    return [
        make_sweep(tmp_path / "narrow", a, NARROW),
        make_sweep(tmp_path / "wide", b, WIDE, **wide),
    ]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    return called(compare.main, capsys)


# --- what differs ---------------------------------------------------------------------------------


def as_rows(paths: Sequence[Path]) -> dict[str, list[str]]:
    found = differences.differences(read(paths)[0])
    letters = [name for name in found.columns if name not in ("setting", "kind")]
    return {row["setting"]: [row[x] for x in letters] for row in found.to_dict("records")}


def test_differences_are_named_by_dotted_key_with_the_value_in_each(two: list[Path]) -> None:
    found = differences.differences(read(two)[0])
    assert as_rows(two) == {
        "lr": ["0.01, 0.1, 1", "0.1, 0.3"],
        "network.hidden": ["[64, 64]", "[512]"],
        "torch": ["2.9", "2.10"],
    }
    assert found["kind"].tolist() == ["setting", "setting", "environment"]


def test_what_is_the_same_is_no_difference(tmp_path: Path) -> None:
    ends = {0.1: [0.2], 0.3: [0.3]}
    paths = [make_sweep(tmp_path / name, ends, NARROW) for name in "ab"]
    assert as_rows(paths) == {}
    words = text(read(paths)[0])
    assert "no difference in settings, versions, device or data" in words
    assert "A and B are equal" in words


def test_another_optimizer_is_one_difference_and_not_all_its_settings(tmp_path: Path) -> None:
    adam = "optimizer: {_target_: torch.optim.Adam, betas: [0.9, 0.999], eps: 1.0e-08}\n"
    paths = [
        make_sweep(tmp_path / "sgd", {0.1: [0.2]}, NARROW),
        make_sweep(tmp_path / "adam", {0.1: [0.2]}, adam, optimizer="adam"),
        make_sweep(tmp_path / "fast", {0.1: [0.2]}, adam.replace("0.9,", "0.5,"), optimizer="adam"),
    ]
    assert as_rows(paths[:2])["optimizer"] == ["sgd", "adam"]
    assert not [name for name in as_rows(paths[:2]) if name.startswith("optimizer.")]
    assert as_rows(paths)["optimizer.betas"] == ["-", "[0.9, 0.999]", "[0.5, 0.999]"]
    assert "optimizer.eps" not in as_rows(paths)


def test_diagnostics_are_a_difference_for_verdicts_depend_on_them(tmp_path: Path) -> None:
    paths = [
        make_sweep(tmp_path / name, {0.1: [0.2]}, f"{NARROW}diagnostics: {name}\n")
        for name in ("off", "full")
    ]
    assert as_rows(paths) == {"diagnostics": ["off", "full"]}


def test_what_is_swept_in_one_only_is_told(tmp_path: Path) -> None:
    seeds = make_sweep(tmp_path / "seeds", {0.1: [0.2] * 5, 0.2: [0.2] * 5}, NARROW)
    one = make_sweep(tmp_path / "one", {0.1: [0.2]}, NARROW, data_sha256="cd" * 32)
    rows = as_rows([seeds, one])
    assert rows["swept"] == ["lr, seed", "-"]
    assert rows["seed"] == ["0 to 4 (5)", "0"]
    assert rows["data_sha256"] == ["abababababab", "cdcdcdcdcdcd"]


# --- lr by lr -------------------------------------------------------------------------------------


def table_of(words: str, title: str) -> dict[str, list[str]]:
    """The rows of a block by their lr."""
    lines = next(block for block in words.split("\n\n") if block.startswith(title)).splitlines()
    assert lines[1].split()[0] == "lr"
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[3:]]
    return {row[0]: row[1:] for row in rows}


def test_each_lr_of_each_sweep_has_its_row(two: list[Path]) -> None:
    words = text(read(two)[0])
    losses = table_of(words, "end loss")
    assert list(losses) == ["0.01", "0.1", "0.3", "1"]
    assert losses["0.01"][:2] == ["1.5", "-"], "the median of three seeds"
    assert losses["0.1"] == ["0.2", "0.1", "B", "0.1", "beyond"]
    assert losses["1"] == ["fails", "-", "-", "-", "-"]
    accuracies = table_of(words, "test acc")
    assert accuracies["0.1"] == ["93.33%", "96.67%", "B", "3.33%", "beyond"]
    outcomes = table_of(words, "outcome")
    assert outcomes["1"] == ["diverged (2 of 3 failed)", "-"]


def test_a_table_for_other_programs_says_the_same(two: list[Path]) -> None:
    table = by_lr.by_lr_table(read(two)[0])
    assert table["lr"].tolist() == [0.01, 0.1, 0.1, 0.3, 1.0]
    assert table["sweep"].tolist() == ["narrow", "narrow", "wide", "wide", "narrow"]
    assert table["failed"].tolist() == [0, 0, 0, 0, 2] and table["end_loss"].iloc[-1] == math.inf


@pytest.mark.parametrize(
    ("one", "other", "word"),
    [
        ([0.10, 0.11, 0.12], [0.13, 0.14, 0.15], "beyond"),  # 0.03 > 2 · 0.01 · √(2/3) = 0.0163
        ([0.10, 0.11, 0.12], [0.11, 0.12, 0.13], "within"),
        ([0.1], [0.2], "few seeds"),
        ([0.1], [0.2, 0.3], "few seeds"),
        ([0.15], [0.1, 0.11, 0.12, 0.11, 0.1], "beyond"),  # deviation 0.0084, √(1 + 1/5)
        ([0.1, 0.1, math.inf], [0.3, 0.3, 0.3], "beyond"),
    ],
)
def test_two_medians_are_told_apart_by_the_spread_over_seeds(
    one: list[float], other: list[float], word: str
) -> None:
    a = {f"a{i}": end for i, end in enumerate(one)}
    b = {f"b{i}": end for i, end in enumerate(other)}
    assert told_apart(a, b) == told_apart(b, a) == word


def test_seeds_that_both_sweeps_have_are_compared_in_pairs() -> None:
    one = {"0": 0.10, "1": 0.20, "2": 0.30}
    other = {"0": 0.111, "1": 0.21, "2": 0.311}  # 0.0107 ± 0.0006 higher, seed by seed
    assert told_apart(one, other) == told_apart(other, one) == "beyond"
    elsewhere = {f"9{seed}": end for seed, end in other.items()}
    assert told_apart(one, elsewhere) == "within", "unpaired, the spread of 0.1 hides it"
    few = {"0": 0.111, "1": 0.21, "8": 0.311}
    assert told_apart(one, few) == "within", "of two pairs, which say little, as unpaired"
    noisy = {"0": 0.30, "1": 0.11, "2": 0.21}  # differences 0.2, -0.09, -0.09: error 0.097
    assert told_apart(one, noisy) == "within"


def test_seeds_that_failed_count_as_infinitely_bad(tmp_path: Path) -> None:
    risky = make_sweep(tmp_path / "risky", {0.1: [0.1, math.inf, math.inf]})
    safe = make_sweep(tmp_path / "safe", {0.1: [0.5, 0.5, 0.5]})
    losses = table_of(text(read([risky, safe])[0]), "end loss")
    assert losses["0.1"] == ["fails", "0.5", "B", "-", "the other fails"]


def test_swept_settings_make_rows_of_their_own(tmp_path: Path) -> None:
    both = tmp_path / "both"
    write_run(both, 0, falling(0.5), 0.1, schedule="fixed")
    write_run(both, 1, falling(0.4), 0.1, schedule="step")
    fixed = make_sweep(tmp_path / "fixed", {0.1: [0.6]})
    sides, _ = read([both, fixed])
    assert by_lr.within(sides) == ["schedule"]
    assert [(row.lr, row.settings["schedule"], sorted(row.at)) for row in by_lr.by_lr(sides)] == [
        (0.1, "fixed", ["A", "B"]),
        (0.1, "step", ["A"]),
    ]
    assert "best    A schedule=step lr=0.1" in text(sides)


def test_grids_that_differ_in_the_last_digits_meet(tmp_path: Path) -> None:
    one = make_sweep(tmp_path / "one", {0.1: [0.5]})
    other = make_sweep(tmp_path / "other", {0.1 * (1 + 1e-9): [0.4]})
    assert len(by_lr.by_lr(read([one, other])[0])) == 1


def test_a_run_that_failed_before_its_second_evaluation_is_of_no_other_kind(tmp_path: Path) -> None:
    early = make_sweep(tmp_path / "early", {0.1: [0.5]})
    lost = {"state": "diverged", "first_nonfinite_step": 1}
    write_run(early, 1, [2.3, 9.0], 9.0, **lost)
    later = make_sweep(tmp_path / "later", {0.1: [0.4]})
    sides, _ = read([early, later])
    assert set(sides[0].verdicts["judged_by"]) == {"val_loss", "train_loss"}
    assert by_lr.incomparable(sides) == "" and "lowest" in text(sides)


def test_losses_of_other_kinds_are_not_ranked(tmp_path: Path) -> None:
    nll = make_sweep(tmp_path / "nll", {0.1: [0.5]})
    mse = make_sweep(tmp_path / "mse", {0.1: [0.05]}, loss="mse_one_hot")
    words = text(read([nll, mse])[0])
    assert "not comparable, because they are mse_one_hot and nll" in words
    assert "lowest" not in words and "highest" in words and "lower than" not in words


# --- the best of each -----------------------------------------------------------------------------


def test_the_best_are_set_against_each_other(two: list[Path]) -> None:
    lines = text(read(two)[0]).split("\n\n")[-1].splitlines()
    assert lines[0] == "best    B lr=0.1: end loss 0.1 (val loss), the median of 3 seeds"
    assert lines[1] == "best    A lr=0.1: end loss 0.2 (val loss), the median of 3 seeds"
    assert lines[2].strip() == "B is 0.1 lower than A, 50.0%, which is beyond seed noise"
    steps = re.search(r"loss 0\.2: reached by B in (\d+) steps .*, A in (\d+) steps", lines[3])
    assert steps and int(steps[1]) < int(steps[2]) <= 20


def test_a_sweep_that_learned_nothing_is_no_rival(tmp_path: Path) -> None:
    good = make_sweep(tmp_path / "good", {0.1: [0.5]})
    bad = make_sweep(tmp_path / "bad", {9.0: [math.inf]})
    words = text(read([good, bad])[0])
    assert "B  no lr is recommended: every run diverged or collapsed (lr 9)" in words
    best = "best    A lr=0.1: end loss 0.5 (val loss), one seed; no other lr was trained"
    assert words.splitlines()[-1].startswith(best)
    neither = text(read([bad, make_sweep(tmp_path / "worse", {9.9: [math.inf]})])[0])
    assert neither.endswith("best    nothing was learned in any sweep")


def test_unfinished_runs_are_left_out_of_the_rows_and_told(run: Any, two: list[Path]) -> None:
    write_run(two[0], 20, falling(0.01), 0.5, state="running")
    code, out, err = run(*two, "--no-files")
    assert code == 0 and "1 of 10 runs have not ended (1 running)" in err
    assert "0.5" not in table_of(out, "end loss")


# --- files and figures ----------------------------------------------------------------------------


def test_everything_is_written_beside_the_sweeps(run: Any, two: list[Path]) -> None:
    code, out, err = run(*two)
    folder = two[0].parent / "compare_narrow_wide"
    assert (code, err) == (0, "") and out.splitlines()[-1] == f"compared  {folder}"
    assert sorted(each.name for each in folder.iterdir()) == [
        *("by_lr.csv", "compare.txt", "differences.csv", "loss_curves.png"),
        *("lr_against_accuracy.png", "lr_against_loss.png", "to_target.png"),
    ]
    assert (folder / "compare.txt").read_text() in out + "\n"
    assert pd.read_csv(folder / "differences.csv")["setting"].tolist() == [
        *("lr", "network.hidden", "torch")
    ]


@pytest.mark.full
def test_a_figure_that_fails_costs_a_line_and_the_exit_code(
    run: Any, two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("Axis limits")

    monkeypatch.setattr(plots, "lr_against_loss", fails)
    code, out, err = run(*two, "--output", tmp_path / "c")
    assert (code, err) == (1, "lrlab: lr_against_loss was not drawn: ValueError: Axis limits\n")
    assert (tmp_path / "c" / "loss_curves.png").is_file() and "compared  " in out


def test_output_and_no_files(
    run: Any, two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "figures", lambda *_: {})
    for _ in range(2):  # once more into the same folder
        assert run(*two, "--output", tmp_path / "deep" / "er")[0] == 0
    assert (tmp_path / "deep" / "er" / "by_lr.csv").is_file()
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = run(*two, "--no-files")
    assert code == 0 and "plot" not in out and sorted(tmp_path.rglob("*")) == before


def test_each_sweep_has_a_panel_and_a_look_of_its_own(two: list[Path]) -> None:
    drawn = compare.figures(read(two)[0])
    panels = drawn["loss_curves"].axes[:2]
    smooth = [[line for line in ax.get_lines() if line.get_gid() == "smooth"] for ax in panels]
    assert [len(lines) for lines in smooth] == [9, 6]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[0].get_xlim() == panels[1].get_xlim()
    heads = [text.get_text() for ax in panels for text in ax.texts if text.get_gid() == "head"]
    assert heads == ["narrow", "9 runs, 2 lost", "wide", "6 runs"]
    medians = [line for line in drawn["lr_against_accuracy"].axes[0].get_lines() if line.get_gid()]
    looks = {
        (line.get_color(), line.get_marker()) for line in medians if "median" in line.get_gid()
    }
    assert len(looks) == 2


def test_the_objective_that_all_sweeps_have_decides(two: list[Path]) -> None:
    for objectives, said in ((["val_loss"] * 2, 1), (["train_loss", "val_loss"], 0)):
        for sweep, objective in zip(two, objectives, strict=True):
            (sweep / "multirun.yaml").write_text(f"objective: {objective}\n")
        found = written(compare.figures(read(two)[0])["lr_against_loss"])
        assert found.count("(decides)") == found.count("val loss (decides)") == said
    for value in ("[val_acc]", "nonsense", "{", "&a [*a]"):
        (two[0] / "multirun.yaml").write_text(f"objective: {value}\n")
        assert sweep_settings.objective(two[0]) == "val_loss"


def test_many_combinations_are_drawn_by_the_best_of_each_sweep(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        for number, momentum in enumerate((0.0, 0.2, 0.4, 0.6, 0.8)):
            own = {"optimizer.momentum": momentum}
            write_run(tmp_path / name, number, falling(0.2 + momentum), 0.1, train_loss=0.2, **own)
        paths.append(tmp_path / name)
    drawn = compare.figures(read(paths)[0])
    title = drawn["lr_against_loss"].texts[0].get_text()
    assert "best settings of each sweep" in title
    assert len(drawn["loss_curves"].axes) >= 2


def test_curves_that_others_wrote_can_be_compared(run: Any, two: list[Path]) -> None:
    file = two[0].parent / "mine.csv"
    rows = "".join(f"a,0.1,{step},{2 / (step + 1)}\n" for step in range(20))
    file.write_text("run,lr,step,train_loss\n" + rows)
    code, out, err = run(two[0], file, "--no-files")
    assert (code, err) == (0, "")
    assert set(compare.figures(read([two[0], file])[0])) >= {"loss_curves", "lr_against_loss"}
    assert "B  mine" not in out and f"B  {file}: 1 run, 1 lr" in out
    assert "test acc" not in out, "the CSV has none"


@pytest.mark.full(after=1)
@pytest.mark.parametrize("count", [3, 6])
def test_up_to_six_sweeps_of_one_name(
    run: Any, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "figures", lambda *_: {})
    paths = [make_sweep(tmp_path / f"f{i}" / "same", {0.1: [0.2 + i / 10]}) for i in range(count)]
    code, out, _ = run(*paths)
    assert code == 0
    assert [side.name for side in read(paths)[0]] == [f"f{i}/same" for i in range(count)]
    assert out.splitlines()[count - 1].startswith(f"{'ABCDEF'[count - 1]}  ")
    assert (tmp_path / ("compare_" + "_".join(f"f{i}_same" for i in range(count)))).is_dir()


# --- bad input ------------------------------------------------------------------------------------


def test_bad_input_is_one_line(run: Any, two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    a, b = two
    for arguments, message in [
        ([a], "name two to 6 sweeps to compare, not 1"),
        ([a, a], "is named twice; name it once"),
        ([a, b, a / ".." / "wide"], "is named twice"),
        ([a, b, a, b, a, b, a], "name two to 6 sweeps to compare, not 7"),
        ([a, tmp_path / "empty"], "holds no runs"),
        ([a, tmp_path / "wied"], "no such file or folder (did you mean wide?)"),
        ([a, b / "0"], "is a run's folder; name its sweep's"),
        ([a, b, "--output", a], "is a sweep's or a run's folder; name another"),
        ([a, b, "--output", a / "multirun.yaml"], "is a file; name a folder"),
    ]:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, arguments
        assert sorted(tmp_path.rglob("*")) == before, "nothing half-written"


def test_damaged_records_are_told_and_the_rest_is_compared(run: Any, two: list[Path]) -> None:
    (two[0] / "0" / "summary.json").write_text("{")
    (two[0] / "1" / "metrics.csv").write_text("")
    (two[0] / "2" / ".hydra" / "config.yaml").write_text("a: [1")
    code, out, err = run(*two, "--no-files")
    assert code == 0 and "best    B" in out and len(err.splitlines()) == 2
