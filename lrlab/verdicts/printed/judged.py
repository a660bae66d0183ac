"""Judge a DataFrame from Python: ``lrlab.judge(frame)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrlab.errors import UserError
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.printed import answer_words

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recommendation:
    """Which lr to use; ``print`` shows the lines that end the command.

    Attributes:
        answers: one for each combination of the other settings, the best first; see
            `lrlab.verdicts.answer.Answer` for what each holds.
        words: the lines, where they are not those of curves.
    """

    answers: tuple[Answer, ...]
    words: str = ""

    @property
    def lr(self) -> float | None:
        """The recommended lr of the best combination.

        None if no lr is recommended, or if the losses are of different kinds and so have no best.
        """
        from lrlab.verdicts.recommend import comparable

        told = self.answers and comparable(self.answers)
        return self.answers[0].best_lr if told else None

    @property
    def text(self) -> str:
        return self.words or answer_words.text(self.answers)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class Judged:
    """What the runs of a DataFrame came to; ``print`` shows what the command prints.

    Attributes:
        verdicts: one row a run; see `lrlab.verdicts.judging.verdicts`, and for end losses alone
            `lrlab.verdicts.end_losses.verdicts`.
        answer: which lr to use.
        notes: what was taken for which column, and what was assumed.
    """

    verdicts: pd.DataFrame
    answer: Recommendation
    notes: tuple[str, ...]
    table: str

    def __str__(self) -> str:
        return "\n\n".join(filter(None, ["\n".join(self.notes), self.table, self.answer.text]))

    __repr__ = __str__


def judge(
    frame: pd.DataFrame,
    *,
    lr: float | Mapping[str, float] | None = None,
    columns: Mapping[str, str] | None = None,
    target: float | None = None,
) -> Judged:
    """Judge the runs of a DataFrame, as ``python -m lrlab.analysis`` judges a CSV.

    Args:
        frame: curves, a row a recorded step: run, lr, step or epoch, train_loss or val_loss, under
            these names or those that other programs use. Or end losses alone, a row a run: lr, a
            loss, and settings. NaN counts as lost only where nothing else was measured, after the
            last finite loss of a run.
        lr: of the only run, or of each by its name, where no column has it.
        columns: by lrlab's name, the column to take for it.
        target: the loss to reach, see `lrlab.verdicts.judging.verdicts`.

    Raises:
        UserError: a column is missing or ambiguous, or holds what is no number.
    """
    import pandas as pd

    from lrlab.logs import rates, reading
    from lrlab.logs.columns import Wanted
    from lrlab.verdicts import loading
    from lrlab.verdicts.printed import end_loss_words
    from lrlab.verdicts.printed.run_words import in_order, verdict_table

    if not isinstance(frame, pd.DataFrame):
        raise UserError(
            f"frame={type(frame).__name__}: must be a pandas DataFrame; for files use python -m "
            "lrlab.analysis, for a sweep's folder lrlab.load"
        )
    for name in columns or ():
        if name not in rates.OURS:
            raise UserError(f"columns={name}: unknown; choose from {', '.join(rates.OURS)}")
    wanted = Wanted(lr=_lrs(lr), columns=tuple((columns or {}).items()))
    found = reading.of_frame(frame, wanted)
    loaded = loading.of_frame(found)
    told = in_order(loaded.verdicts(target))
    answers = tuple(loaded.answers(told))
    if loaded.ends:
        table, _, words = end_loss_words.text(told, answers).rpartition("\n\n")
        return Judged(told, Recommendation(answers, words), found.notes, table)
    return Judged(told, Recommendation(answers), found.notes, verdict_table(told))


def _lrs(lr: Any) -> tuple[str, ...]:
    from lrlab.process.plain import A_RATE, is_rate

    if lr is None:
        return ()
    pairs = lr.items() if isinstance(lr, Mapping) else [("", lr)]
    for _, value in pairs:
        if not is_rate(value):
            raise UserError(f"lr={value!r}: must be {A_RATE}, or a dict by run")
    return tuple(f"{name}={value!r}" if name else repr(float(value)) for name, value in pairs)
