"""Live progress: log lines where there is no terminal, rows on one."""

import io
import re
import subprocess
import sys

import pytest

from lrlab.process import progress
from lrlab.process.progress import LaneRow

pytestmark = pytest.mark.unit


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class AsciiTerminal(Terminal):
    encoding = "ascii"


@pytest.fixture(autouse=True)
def terminal_of_eight_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "8"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def frames(stream: io.StringIO) -> list[list[str]]:
    """What was drawn, split where the cursor was sent back up, without the control codes."""
    drawn = re.split(r"(?:\r?\x1b\[2K|\x1b\[1A)+", stream.getvalue())
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in drawn]
    return [[line.rstrip() for line in frame.splitlines()] for frame in plain if frame.strip()]


def lanes(count: int) -> list[LaneRow]:
    return [LaneRow(run=i, label=f"lr=0.{i}", epochs=2) for i in range(count)]


def test_log_lines_come_at_epochs_and_changes_of_state_only() -> None:
    stream = io.StringIO()
    with progress.show(lanes(2), stream) as update:
        update(0, lr=0.1, state="training")
        for step in range(100):
            update(0, epoch=step / 100, step=step, lr=0.1, loss=2.0)
        update(0, epoch=1, step=100, loss=0.31234, accuracy=0.941)
        update(0, epoch=1.5, loss=0.2)
        update(1, epoch=0.02, step=2, loss=float("nan"), state="diverged")
        update(0, epoch=2, loss=0.2, accuracy=0.95, state="finished")
    assert stream.getvalue().splitlines() == [
        "run 0  lr=0.0  epoch 0/2  lr 0.1  training",
        "run 0  lr=0.0  epoch 1/2  lr 0.1  loss 0.3123  accuracy 94.10%  training",
        "run 1  lr=0.1  epoch 0.02/2  loss nan  diverged at step 2",
        "run 0  lr=0.0  epoch 2/2  lr 0.1  loss 0.2000  accuracy 95.00%  finished",
    ]


def test_losses_need_not_be_fetched_where_nothing_is_drawn() -> None:
    with progress.show(lanes(1), io.StringIO()) as update:
        assert not update.due()


@pytest.mark.default
def test_rich_is_not_imported_without_a_terminal() -> None:
    code = (
        "import io, sys\nfrom lrlab.process import progress\n"
        "with progress.show([progress.LaneRow(0)], io.StringIO()) as update:\n"
        "    update(0, state='finished')\n"
        "print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_log_lines_survive_a_narrow_encoding() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with progress.show([LaneRow(run=0, label="lr=0.1 größe")], stream) as update:
        update(0, state="training")
    assert raw.getvalue().decode("ascii").startswith("run 0  lr=0.1 gr??e")


def test_a_terminal_shows_a_row_a_lane() -> None:
    stream = Terminal()
    with progress.show(lanes(2), stream) as update:
        update(0, epoch=2, lr=0.1, loss=0.25, accuracy=0.9, state="finished")
        update(1, epoch=1, step=7, lr=1.0, loss=float("inf"), state="diverged")
    last = [line.split() for line in frames(stream)[-1]]
    assert last[0] == ["run", "epoch", "lr", "loss", "accuracy", "state"]
    assert last[1] == ["0", "lr=0.0", "2/2", "0.1", "0.2500", "90.00%", "finished"]
    assert last[2] == ["1", "lr=0.1", "1/2", "1", "inf", "diverged", "at", "step", "7"]


def test_more_lanes_than_rows_show_those_that_train_first() -> None:
    stream = Terminal()
    with progress.show(lanes(100), stream) as update:
        for lane in range(98):
            update(lane, state="finished")
        update(99, state="training")
    shown = frames(stream)
    assert all(len(frame) <= 7 for frame in shown), "taller than the terminal: it would scroll"
    last = shown[-1]
    assert [line.split()[0] for line in last[1:6]] == ["99", "94", "95", "96", "97"]
    assert last[6] == "… and 95 more: 94 finished, 1 waiting"


def test_lanes_join_while_others_train_and_those_that_ended_long_ago_leave() -> None:
    stream = Terminal()
    with progress.show(lanes(2), stream) as update:
        for run in range(2, 40):
            lane = update.add(LaneRow(run, label=f"lr={run}", epochs=3))
            assert lane == run
            update(lane, epoch=1, loss=1.0, state="training")
            update(lane - 2, epoch=1, loss=1.0, accuracy=0.5, state="pruned")
    shown = frames(stream)
    assert all(len(frame) <= 7 for frame in shown)
    last = shown[-1]
    assert [line.split()[0] for line in last[1:6]] == ["38", "39", "35", "36", "37"]
    assert last[3].split() == ["35", "lr=35", "1/3", "1.0000", "50.00%", "pruned"]
    assert last[6] == "… and 35 more: 35 pruned"


def test_a_lane_that_goes_on_training_counts_as_training_again() -> None:
    stream = Terminal()
    with progress.show(lanes(20), stream) as update:
        for lane in range(20):
            update(lane, state="failed")
        update(7, state="waiting")
        update(7, state="training")
    assert frames(stream)[-1][1].split()[0] == "7"
    assert frames(stream)[-1][-1] == "… and 15 more: 15 failed"


def test_log_lines_tell_of_added_lanes_and_notes() -> None:
    stream = io.StringIO()
    with progress.show([], stream) as update:
        lane = update.add(LaneRow(run=12, label="lr=0.2", epochs=3))
        update(lane, state="training")
        update.note("out of memory, halved the lanes to 8 [1/2]")
        update(lane, epoch=1, loss=0.5, accuracy=0.25, state="pruned")
    assert stream.getvalue().splitlines() == [
        "run 12  lr=0.2  epoch 0/3  training",
        "out of memory, halved the lanes to 8 [1/2]",
        "run 12  lr=0.2  epoch 1/3  loss 0.5000  accuracy 25.00%  pruned",
    ]


def test_a_note_stays_above_the_rows_of_a_terminal() -> None:
    stream = Terminal()
    with progress.show(lanes(2), stream) as update:
        update(0, state="training")
        update.note("out of memory, halved the lanes to 8 [1/2]")
        update(0, state="finished")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert plain.count("out of memory, halved the lanes to 8 [1/2]") == 1, (
        "written once, not redrawn"
    )
    after = plain.partition("[1/2]")[2]
    assert "run" in after and after.rstrip().splitlines()[-1].split()[-1] == "waiting"


def test_a_terminal_is_redrawn_at_a_limited_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = Terminal()
    with progress.show(lanes(1), stream) as update:
        for step in range(1000):  # one second of steps
            update(0, step=step, loss=1.0, state="training")
            now[0] += 1e-3
        assert 4 <= len(frames(stream)) <= 10
        update(0, loss=1.0)
        now[0] += 0.05
        assert not update.due()
        now[0] += 0.2
        assert update.due()


def test_no_color_and_ascii_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, plain = Terminal(), AsciiTerminal()
    for stream in (coloured, plain):
        with progress.show(lanes(20), stream) as update:
            update(0, state="diverged")
        monkeypatch.setenv("NO_COLOR", "1")
    assert re.search(r"\x1b\[[0-9;]*31m", coloured.getvalue())
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain.getvalue())
    plain.getvalue().encode("ascii")
    assert frames(plain)[-1][-1] == "... and 15 more: 15 waiting"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with progress.show(lanes(1), stream) as update:
        update(0, state="training")
    assert stream.getvalue() == "run 0  lr=0.0  epoch 0/2  training\n"


def test_an_error_in_the_block_is_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="boom"), progress.show(lanes(1), Terminal()):
        raise RuntimeError("boom")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_share_is_shown_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, pipe = _Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        with progress.share("branch test", stream) as tell:
            tell(0.4)
    assert terminal.getvalue() == "\rlrlab: branch test  40%\r\033[K"
    assert pipe.getvalue() == ""


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_narrow_terminal_tells_the_runs_apart(width: int) -> None:
    seeds = [f"lr=0.0{i} optimizer=adam schedule=cosine seed={i % 2}" for i in range(4)]
    columns = {
        "run": ["8", "9", "10", "110"],
        "": seeds,
        "epoch": ["1/2"] * 4,
        "lr": ["0.005912"] * 4,
        "loss": ["1.0500"] * 4,
        "accuracy": ["48.33%"] * 4,
        "state": ["training"] * 4,
    }
    found = progress._narrowed(columns, width)
    assert sum(progress._width(*each) + 2 for each in found.items()) - 2 <= width
    assert found["run"] == columns["run"] and found["state"] == columns["state"]
    labels = next(cells for name, cells in found.items() if name not in columns or not name)
    assert all(label.endswith(str(i % 2)) for i, label in enumerate(labels)), "the seed is shown"
    if width >= 60:
        assert len(set(labels)) == 4
    if width >= 80:
        assert len(found) == len(columns), "no column is left out"
    if width == 200:
        assert found == columns
