"""Logs of other programs, for tests: read one, judge it, run the command on it, write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrlab.errors import UserError
from lrlab.logs import reading
from lrlab.logs.columns import Wanted
from lrlab.verdicts import loading

CASES = Path(__file__).parent.parent / "cases_of_logs"
CURVE = [2.3, 1.9, 1.6, 1.2, 0.9, 0.7, 0.5, 0.4]


def found(path: Path, **wanted: Any) -> reading.Found:
    told = reading.read(path, Wanted(**wanted))
    assert told is not None
    return told


def lrs(told: reading.Found) -> dict[str, float]:
    return dict(zip(told.rows["run"], told.rows["lr"], strict=True))


def outcomes(path: Path, **wanted: Any) -> dict[str, str]:
    verdicts = loading.load([path], wanted=Wanted(**wanted)).verdicts()
    return dict(zip(verdicts["run"], verdicts["outcome"], strict=True))


def refused(path: Path, **wanted: Any) -> str:
    with pytest.raises(UserError) as error:
        loading.load([path], wanted=Wanted(**wanted)).verdicts()
    return str(error.value)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def curve_text(header: str, losses: list[float], row: str = "{i},{loss}") -> str:
    rows = [row.format(i=i, loss=loss) for i, loss in enumerate(losses)]
    return "\n".join([header, *rows, ""])
