"""Show live progress of the lanes: one row a lane on a terminal, plain log lines elsewhere."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TextIO

from lrlab.errors import in_a_line
from lrlab.process import broken_pipe
from lrlab.process.fitting import room

_REDRAW_S = 1 / 8  # eight redraws a second look live and cost nothing noticeable
_ORDER = {"training": 0, "waiting": 2}  # all others have ended: 1
_STYLES = {
    "finished": "green",
    "pruned": "yellow",
    "interrupted": "bold yellow",
    "diverged": "red",
    "failed": "bold red",
    "waiting": "dim",
}


@dataclass(frozen=True)
class LaneRow:
    """A lane in the display. The caller gives run, label and epochs; updates fill in the rest."""

    run: int  # the run's number, the name of its folder
    label: str = ""  # distinguishes it in the sweep, for example "lr=0.1 schedule=step"
    epochs: float | None = None  # how many it will train
    epoch: float = 0.0
    step: int | None = None
    lr: float | None = None  # the lr used at the last step
    loss: float | None = None
    accuracy: float | None = None  # share of right answers, 0 to 1; NaN for a regression
    state: str = "waiting"  # waiting, training, finished, pruned, diverged, failed, interrupted


class Update(Protocol):
    """Update a lane in the display; keywords are LaneRow's fields, None: unchanged."""

    def __call__(
        self,
        lane: int,
        *,
        epoch: float | None = None,
        epochs: float | None = None,
        step: int | None = None,
        lr: float | None = None,
        loss: float | None = None,
        accuracy: float | None = None,
        state: str | None = None,
    ) -> None: ...

    def due(self) -> bool:
        """Return whether an update would be drawn now: on a terminal about 8 times a second.

        Ask before losses are fetched from the device only for the display.
        """
        ...

    def add(self, row: LaneRow) -> int:
        """Show one more lane from now on; return its number for updates."""
        ...

    def note(self, text: str) -> None:
        """Write a line that stays, on a terminal above the rows."""
        ...


@contextmanager
def show(lanes: Sequence[LaneRow], stream: TextIO | None = None) -> Iterator[Update]:
    """Show the lanes until the block ends; yield the function that reports about one of them.

        with progress.show([LaneRow(run=0, label="lr=0.1", epochs=3)]) as update:
            if update.due():
                update(0, epoch=0.4, step=351, lr=0.1, loss=0.61, state="training")
            update(0, epoch=1, step=859, loss=0.31, accuracy=0.94)  # an epoch is finished
            update(0, state="finished")

    Lanes that are not known beforehand join by ``update.add(LaneRow(...))``.

    stream: default sys.stdout. On a terminal each lane has a row. If there are too many, those that
    train come first, then those that ended last, and the last line counts the others. Elsewhere a
    line is written for each finished epoch (a call with accuracy) and each change of state.
    NO_COLOR is respected.
    """
    out: TextIO = sys.stdout if stream is None else stream
    if _can_redraw(out):
        from rich.console import Console
        from rich.live import Live

        console = Console(file=broken_pipe.ungated(out), force_terminal=True, highlight=False)
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            # Meanwhile rich's own streams, which print above the rows, need the gate.
            sys.stdout, sys.stderr = broken_pipe.gated(sys.stdout), broken_pipe.gated(sys.stderr)
            table = _Table(lanes, console, live)
            try:
                yield table
            finally:
                table.draw()
    else:
        yield _Lines(lanes, out)


@contextmanager
def share(name: str, stream: TextIO | None = None) -> Iterator[Callable[[float], None]]:
    """Show the finished share of some work on a terminal; elsewhere write nothing.

    Yield a function that takes the share, 0 to 1, and may be called at every step.

    stream: default sys.stderr.
    """
    out: TextIO = sys.stderr if stream is None else stream
    live = _can_redraw(out)
    drawn, shown = -math.inf, False

    def tell(done: float) -> None:
        nonlocal drawn, shown
        if live and time.monotonic() - drawn >= _REDRAW_S:
            out.write(f"\rlrlab: {name} {done:4.0%}")
            out.flush()
            drawn, shown = time.monotonic(), True

    try:
        yield tell
    finally:
        if shown:
            out.write("\r\033[K")
            out.flush()


def _can_redraw(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


class _Lanes:
    def __init__(self, lanes: Sequence[LaneRow]) -> None:
        self.lanes = list(lanes)

    def add(self, row: LaneRow) -> int:
        self.lanes.append(row)
        return len(self.lanes) - 1


class _Lines(_Lanes):
    """Write plain lines for logs, pipes and CI."""

    def __init__(self, lanes: Sequence[LaneRow], stream: TextIO) -> None:
        super().__init__(lanes)
        self.stream = stream

    def due(self) -> bool:
        return False

    def __call__(self, lane: int, **news: Any) -> None:
        before = self.lanes[lane]
        row = self.lanes[lane] = _changed(before, news)
        epoch_done = news.get("accuracy") is not None
        if epoch_done or row.state != before.state:
            self.note(_line(row, with_accuracy=epoch_done))

    def note(self, text: str) -> None:
        self.stream.write(_writable(text, self.stream) + "\n")
        self.stream.flush()


class _Table(_Lanes):
    """Redraw rows on a terminal in place, at most every _REDRAW_S and at changes of state."""

    def __init__(self, lanes: Sequence[LaneRow], console: Any, live: Any) -> None:
        super().__init__(lanes)
        self.console = console
        self.live = live
        self.next_draw = 0.0
        self.ended: dict[int, None] = {}  # in the order in which they ended

    def due(self) -> bool:
        return time.monotonic() >= self.next_draw

    def __call__(self, lane: int, **news: Any) -> None:
        self.lanes[lane] = _changed(self.lanes[lane], news)
        self.ended.pop(lane, None)
        if _order(self.lanes[lane]) == 1:
            self.ended[lane] = None
        if self.due():
            self.draw()

    def note(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(_writable(text, self.console.file)))

    def draw(self) -> None:
        self.live.update(self._rows(), refresh=True)
        self.next_draw = time.monotonic() + _REDRAW_S

    def _rows(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        # The header, the line about hidden lanes and the cursor's line take three rows.
        most = max(1, self.console.height - 3)
        shown, hidden = _fitting(self.lanes, list(self.ended), most)
        table = Table(box=None, pad_edge=False, header_style="bold")
        columns = {
            "run": [str(row.run) for row in shown],
            "": [row.label for row in shown],
            "epoch": [_epochs(row) for row in shown],
            "lr": [_plain(row.lr, ".4g") for row in shown],
            "loss": [_loss(row.loss) for row in shown],
            "accuracy": [_plain(row.accuracy, ".2%") for row in shown],
            "state": [_state(row) for row in shown],
        }
        if any(row.accuracy != row.accuracy for row in self.lanes):  # a regression has none
            del columns["accuracy"]
        columns = {
            name: [_writable(cell, self.console.file) for cell in cells]
            for name, cells in columns.items()
        }
        for name, cells in (columns := _narrowed(columns, self.console.width)).items():
            side = "right" if name in ("run", "epoch", "lr", "loss", "accuracy") else "left"
            # "crop", because rich's own ellipsis is not ASCII.
            table.add_column(
                name, justify=side, no_wrap=True, overflow="crop", min_width=_width(name, cells)
            )
        for row, cells in zip(shown, zip(*columns.values(), strict=True), strict=True):
            table.add_row(*map(Text, cells), style=_STYLES.get(row.state, ""))
        if not hidden:
            return table
        dots = _writable("…", self.console.file, instead="...")
        states = [row.state for row in hidden]
        told = ", ".join(f"{states.count(name)} {name}" for name in sorted(set(states)))
        line = f"{dots} and {len(hidden)} more: {told}"
        return Group(table, Text(line, style="dim", no_wrap=True, overflow="crop"))


_GAP = 2  # between columns
_LABEL = 12  # columns are left out until settings have so many letters
_LEAST = ("lr", "epoch", "accuracy")  # the least important first


def _narrowed(columns: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """Fit to the terminal: leave out columns, move settings' names to the head, cut letters."""
    columns = dict(columns)

    def left() -> int:
        return width - sum(_width(n, c) + _GAP for n, c in columns.items() if n)

    for name in _LEAST:
        if left() >= min(_LABEL, _width("", columns[""])):
            break
        columns.pop(name, None)
    least = max(left(), 1)
    head, labels = "", columns[""]
    if labels and _width("", labels) > least:
        words = [[word.partition("=") for word in label.split(" ")] for label in labels]
        keys = [[key for key, _, _ in each] for each in words]
        named = all(equals for each in words for _, equals, _ in each)
        if named and all(each == keys[0] for each in keys):
            head = " ".join(key.rpartition(".")[2] for key in keys[0])
            labels = [" ".join(value for _, _, value in each) for each in words]
    head = f" {head}" if head and head in columns else head
    columns[""] = [_cut(label, least) for label in labels]
    return {name or _cut(head, least): cells for name, cells in columns.items()}


def _width(name: str, cells: Sequence[str]) -> int:
    return max(map(room, [name, *cells]))


def _cut(text: str, size: int) -> str:
    """Cut the middle out of a text: settings differ most at their beginning and end."""
    if room(text) <= size:
        return text
    if size < 6:
        return text[:size]
    begin = (size - 2) // 2
    return f"{text[:begin]}..{text[begin + 2 - size :]}"


def _order(row: LaneRow) -> int:
    return _ORDER.get(row.state, 1)


def _fitting(
    lanes: Sequence[LaneRow], ended: Sequence[int], most: int
) -> tuple[list[LaneRow], list[LaneRow]]:
    """Return the rows to show, those that train first, and the lanes left out.

    ended: indices into lanes, in the order in which they ended.
    """
    if len(lanes) <= most + 1:  # the line that counts the others would take a row itself
        return sorted(lanes, key=_order), []  # stable
    latest = {lane: at for at, lane in enumerate(ended)}
    wanted = sorted(range(len(lanes)), key=lambda i: (_order(lanes[i]), -latest.get(i, 0), i))
    shown = sorted(wanted[:most], key=lambda i: (_order(lanes[i]), i))
    return [lanes[i] for i in shown], [lanes[i] for i in wanted[most:]]


def _changed(row: LaneRow, news: dict[str, Any]) -> LaneRow:
    return replace(row, **{name: value for name, value in news.items() if value is not None})


def _line(row: LaneRow, with_accuracy: bool) -> str:
    parts = [f"run {row.run}", row.label, f"epoch {_epochs(row)}"]
    if row.lr is not None:
        parts.append(f"lr {row.lr:.4g}")
    if row.loss is not None:
        parts.append(f"loss {_loss(row.loss)}")
    if with_accuracy and row.accuracy == row.accuracy:
        parts.append(f"accuracy {row.accuracy:.2%}")
    parts.append(_state(row))
    return "  ".join(part for part in parts if part)


def _state(row: LaneRow) -> str:
    at_step = row.state == "diverged" and row.step is not None
    return f"diverged at step {row.step}" if at_step else row.state


def _epochs(row: LaneRow) -> str:
    # Whole epochs read as 2/3, parts of one as 1.27/3.
    done = f"{row.epoch:.0f}" if row.epoch == int(row.epoch) else f"{row.epoch:.2f}"
    return done if row.epochs is None else f"{done}/{row.epochs:g}"


def _loss(value: float | None) -> str:
    # a line has no room for the digits of a loss that explodes
    return _plain(value, ".4f" if value is None or abs(value) < 1e4 else ".3e")


def _plain(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _writable(text: str, stream: TextIO, instead: str | None = None) -> str:
    """Return the text on one line, without control characters.

    If the stream's encoding lacks some letters, they are "?", or all of it is `instead`.
    """
    text = in_a_line(text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    safe = text.encode(encoding, errors="replace").decode(encoding)
    return text if safe == text else (safe if instead is None else instead)
