# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Hold the range test's options and results, for the files, the figure and the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrlab.config import checks
from lrlab.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lrlab.range_test.constants import Constants
    from lrlab.range_test.ramp import Ramp

LOWEST, HIGHEST = 1e-150, 1e150  # their ratio is still a number, and so are lrs somewhat beyond


@dataclass(frozen=True)
class Options:
    """What is tried, and for how long.

    Attributes:
        low, high: the range of learning rates.
        points: how many constant lrs.
        steps: of each of them.
        ramp_steps: of the ramp.
        smoothing: of the ramp, as a share of its steps.
    """

    low: float = 1e-5
    high: float = 10.0
    points: int = 32
    steps: int = 300
    ramp_steps: int = 300
    smoothing: float = 0.03

    def __post_init__(self) -> None:
        typed = f"lr={self.low:g}..{self.high:g}"
        checks.check_lr_range(self.low, self.high, typed, "lr=1e-5..10")
        if self.low >= self.high:
            raise UserError(f"{typed}: must rise, for example lr=1e-5..10")
        if self.low < LOWEST or self.high > HIGHEST:
            raise UserError(
                f"{typed}: must lie between {LOWEST:g} and {HIGHEST:g}, for example lr=1e-5..10"
            )
        for name, least, example in (
            ("points", 2, 32),
            ("steps", 10, 300),
            ("ramp_steps", 10, 300),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"{name}={value}: must be a whole number of at least {least}, "
                    f"for example {name}={example}"
                )
        if not 0 <= self.smoothing <= 0.5:
            raise UserError(
                f"smoothing={self.smoothing:g}: must be from 0 to 0.5, for example smoothing=0.03"
            )


@dataclass(frozen=True, eq=False)
class Found:
    """Both tests and their readings.

    Attributes:
        options: the options of the test.
        ramp_lr, ramp_loss: (ramp_steps,) lr at each step, mini-batch loss before its update; NaN
            after the first loss that is not finite.
        constant_lr: (points,); constant_losses: (steps, points) likewise.
        ramp, constants: their readings, by the held-out losses if there are any, else by those of
            the mini-batches.
        misleads: where the ramp misleads, a sentence each.
        sweep: the range that a sweep should try next, or None.
        val_samples: how many held-out samples judged it; None: none, ``no_val`` may say why, and
            all attributes below are None.
        val_steps: (looks,) the steps before which the constant lrs were evaluated.
        constant_val: (looks, points) their held-out losses.
        ramp_val_steps, ramp_val: (looks,) likewise, of the ramp.
        train_ramp, train_constants: the readings by the mini-batch losses.
        answer: all of it in words, a line each.
    """

    options: Options
    ramp_lr: np.ndarray
    ramp_loss: np.ndarray
    constant_lr: np.ndarray
    constant_losses: np.ndarray
    ramp: Ramp
    constants: Constants
    misleads: tuple[str, ...]
    sweep: tuple[float, float] | None
    val_samples: int | None = None
    val_steps: np.ndarray | None = None
    constant_val: np.ndarray | None = None
    ramp_val_steps: np.ndarray | None = None
    ramp_val: np.ndarray | None = None
    train_ramp: Ramp | None = None
    train_constants: Constants | None = None
    no_val: str = ""
    answer: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the answer, as the command prints it, in lines that fit a screen."""
        import textwrap

        lines = [textwrap.wrap(line, 79, subsequent_indent="      ") for line in self.answer]
        return "\n".join(part for line in lines for part in line[:3])

    @property
    def judged_by(self) -> str:
        """The loss that judged the learning rates, in words."""
        return "training loss" if self.val_samples is None else "held-out loss"

    @property
    def best(self) -> float | None:
        """The best constant lr; None: nothing was learned, and ``constants.why_none`` says why."""
        return self.constants.best
