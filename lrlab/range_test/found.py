# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Hold the range test's options and results, for the files, the figure and the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrlab.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lrlab.range_test.constants import Constants
    from lrlab.range_test.ramp import Ramp

LOWEST, HIGHEST = 1e-150, 1e150  # their ratio is still a number, and so are lrs somewhat beyond


@dataclass(frozen=True)
class Options:
    """Which learning rates to try, and for how long."""

    low: float = 1e-5
    high: float = 10.0
    points: int = 32  # how many constant lrs
    steps: int = 300  # of each constant lr
    ramp_steps: int = 300
    smoothing: float = 0.03  # of the ramp, as a share of its steps

    def __post_init__(self) -> None:
        from lrlab.config import checks  # imports omegaconf, which --help does without

        typed = f"lr={self.low:g}..{self.high:g}"
        checks.check_lr_range(self.low, self.high, typed, "lr=1e-5..10")
        if self.low >= self.high:
            raise UserError(f"{typed}: must rise, for example lr=1e-5..10")
        if self.low < LOWEST or self.high > HIGHEST:
            raise UserError(
                f"{typed}: must lie between {LOWEST:g} and {HIGHEST:g}, for example lr=1e-5..10"
            )
        for name, least in (("points", 2), ("steps", 10), ("ramp_steps", 10)):
            value, example = getattr(self, name), getattr(Options, name)
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
    """Both tests, and what they show. Losses are NaN after the first one that is not finite."""

    options: Options
    ramp_lr: np.ndarray  # (ramp_steps,) lr at each step
    ramp_loss: np.ndarray  # (ramp_steps,) mini-batch loss before its update
    constant_lr: np.ndarray  # (points,)
    constant_losses: np.ndarray  # (steps, points) mini-batch loss before each update
    ramp: Ramp  # read from the held-out losses if there are any, else from the mini-batch losses
    constants: Constants  # likewise
    misleads: tuple[str, ...]  # where the ramp misleads, a sentence each
    sweep: tuple[float, float] | None  # the range that a sweep should try next
    # How many held-out samples judged the lrs. None: the training loss did, no_val may say why, and
    # the next six are None.
    val_samples: int | None = None
    val_steps: np.ndarray | None = None  # (looks,) steps before which constant lrs were evaluated
    constant_val: np.ndarray | None = None  # (looks, points) their held-out losses
    ramp_val_steps: np.ndarray | None = None  # (looks,) steps before which the ramp was evaluated
    ramp_val: np.ndarray | None = None  # (looks,) its held-out losses
    train_ramp: Ramp | None = None  # read from the mini-batch losses
    train_constants: Constants | None = None
    no_val: str = ""
    left_out: tuple[str, ...] = ()  # what a budget left out, a phrase each
    answer: tuple[str, ...] = ()  # all of it in words, a line each

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
