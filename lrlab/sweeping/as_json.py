"""Run a sweep for ``--json``: stdout has one object with the answer, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lrlab import records
from lrlab.config.words import arguments
from lrlab.errors import UserError
from lrlab.process import only_json

TELLS = ("--help", "-h", "--hydra-help")


def run(
    typed: list[str], verb: str, work: Callable[[list[str], Callable[[Path], object]], None]
) -> None:
    """Run a command that trains a sweep, with ``--json`` or without.

    Args:
        typed: the command's words.
        verb: sweep or resume.
        work: takes the words without ``--json``, and a function to call with the sweep's folder.

    Raises:
        UserError: what the command does has no such object.
        SystemExit: as the sweep ends; with 1 after the object was printed.
    """
    words, wanted = only_json.asked(typed)
    if not wanted or set(words) & set(TELLS):
        work(words, lambda folder: None)
        return
    refuse_others(words)
    opened: list[Path] = []
    code: Any = 0
    with only_json.stdout_free():
        try:
            work(words, opened.append)
        except SystemExit as end:
            if end.code != 1 or not opened:
                raise
            code = end.code
    only_json.show(_found(verb, opened[-1]))
    if code:
        raise SystemExit(code)


def refuse_others(words: Sequence[str]) -> None:
    """Refuse words with which Hydra trains one run, or prints something.

    Raises:
        UserError: there is one.
    """
    other = next((word for word in words if not arguments.is_sweep([word])), None)
    if other is not None:
        raise UserError(f"{only_json.FLAG}: does not go with {other}; leave one of them out")


def _found(verb: str, folder: Path) -> dict[str, Any]:
    states: Counter[str] = Counter()
    for run_folder in records.run_folders(folder):
        try:
            states[str(records.read_summary(run_folder).get("state"))] += 1
        except (UserError, OSError):
            states["unread"] += 1
    return {
        **only_json.head(verb),
        "folder": str(folder),
        "states": dict(states),
        "answer": records.read_answer(folder),
    }
