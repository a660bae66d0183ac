"""``lrlab.Probe``: measure the learning rate inside a training loop of your own."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab import records
from lrlab.data.random_state import random_state_kept
from lrlab.errors import UserError
from lrlab.own_loop import branching, folders, words
from lrlab.own_loop.keeping import gpus
from lrlab.own_loop.measuring import Loss, Measured, measure
from lrlab.own_loop.sharpness import Sharpness
from lrlab.process.plain import A_RATE, is_rate, is_whole

_open: weakref.WeakSet[Probe] = weakref.WeakSet()


class Probe:
    """Measure, on some steps of your own training loop, what the learning rate does.

        probe = lrlab.Probe(model, optimizer, folder="runs/a", every=100)
        for x, y in loader:
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            with probe.step(lambda: loss_fn(model(x), y)):
                optimizer.step()
        print(probe.verdict())

    It measures steps 0, 1, 2, 4, 8, ... below ``every``, and then each ``every``-th. On these it
    evaluates the loss of the same batch along the update that was made, from the weights before to
    those after it and beyond. So it holds for any optimizer, parameter groups, gradient clipping
    and mixed precision. Then weights, buffers, gradients and random states are as without it, to
    the bit. On all other steps it only counts.

    It writes the records of a run, so that ``python -m lrlab.analysis FOLDER`` and the other
    commands read them. Each probe is a new run in its folder.

    Args:
        model: whose buffers (batch norm) and training modes are restored.
        optimizer: whose parameters are measured; any but LBFGS, which evaluates its loss itself.
            With several optimizers take a probe for each.
        folder: of the records; runs that you want to compare belong into one folder.
        every: how many steps lie between two measured ones.
        curvature: returns the loss of a batch that stays the same, some hundred samples. With it
            the stability ratio is measured; each time that costs about as much as 10 steps. Without
            it, a loss that is much steeper across the steps than along them goes unseen.
        lr: by which the run is known; None: the first parameter group's initial lr.
        settings: what else sets this run apart, such as {"width": 64}. Some names have a meaning:
            ``seed``; ``num_classes`` or ``chance_loss``, the loss of the best constant prediction,
            with which a run that learns nothing is found; ``network``, ``data``, ``schedule``.

    Attributes:
        folder: the run's own folder.
        steps: how many updates were made.
        measured: what was measured, in order.

    Raises:
        UserError: an argument cannot work.
        NotWritten: the folder cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        folder: str | Path,
        every: int = 100,
        *,
        curvature: Callable[[], Tensor] | None = None,
        lr: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        _check(model, optimizer, every, lr)
        if curvature is not None:
            _check_callable("curvature", curvature, "lambda: loss_fn(model(fixed_x), fixed_y)")
        if not isinstance(folder, str | Path):
            raise UserError(f"folder={folder!r}: must be the path of a folder, such as 'runs/a'")
        self.model, self.optimizer, self.every = model, optimizer, every
        self._about = folders.described(optimizer, {} if settings is None else settings)
        self._about["lr"] = _initial_lr(optimizer) if lr is None else float(lr)
        self.folder = folders.new_run(Path(folder).expanduser())
        self.steps = 0
        self.measured: list[Measured] = []
        self._sharpness = None if curvature is None else Sharpness(curvature)
        self._step = 0  # of the last measured update
        self._error = _last_error()  # one before the latest step does not belong to it
        self._losses: list[tuple[int, float, Tensor]] = []
        self._nonfinite: int | None = None
        self._due = True
        self._unmoved = 0  # steps that were to be measured and changed no weight
        self._pid = os.getpid()
        self._state = "running"
        self._write()
        _open.add(self)

    def step(self, loss: Loss, *batch: Any) -> contextlib.AbstractContextManager[None]:
        """Go around the optimizer's step: ``with probe.step(lambda: ...): optimizer.step()``.

        Args:
            loss: returns the loss of the batch that the gradients came from, as a tensor. It is
                called on measured steps only, about five times. Call the model itself in it, with
                the same autocast as in your loop. If it returns a loss for each sample, their mean
                counts, and ``noise`` is measured.
            batch: what ``loss`` is called with. If these are tensors with the samples along their
                first axis, ``noise`` is measured by the two halves of the batch.

        Raises:
            whatever ``loss`` raises at the first measurement. Later such an error becomes a warning
            and that step is not measured, so that it does not end your training.
        """
        _check_callable("loss", loss, "lambda: loss_fn(model(x), y)")
        return _Step(self, loss, batch)

    def begin(self) -> _Step:
        """Begin a step whose loss is known only at its ``end(loss, *batch)``, for callbacks."""
        step = _Step(self)
        step.__enter__()
        return step

    def record(self, loss: Tensor) -> None:
        """Record the loss of the next step, for a curve with a point at every step.

        Call it before ``step``. It does not wait for the device: values are fetched when a step is
        measured. Without it the curve has the measured steps only.
        """
        self._check_open()
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UserError("record: give the loss as a tensor with one number")
        self._losses.append((self.steps, _lrs_of(self.optimizer)[0], loss.detach()))

    def evaluated(self, val_loss: float, val_acc: float | None = None) -> None:
        """Record a validation: the mean loss per held-out sample, and the share that is right."""
        self._check_open()
        if val_acc is not None and not 0 <= float(val_acc) <= 1:
            raise UserError(f"val_acc={val_acc}: must be a share from 0 to 1")
        cells = {"step": [self.steps], "epoch": [0], "val_loss": [float(val_loss)]}
        if val_acc is not None:
            cells["val_acc"] = [float(val_acc)]
        self._fetch()
        records.append_metrics(self.folder, cells)

    def verdict(self) -> words.Verdict:
        """Return in words what the latest measured steps say of the lr; ``print`` it."""
        if self._unmoved and (not self.measured or self._unmoved >= words.THRESHOLDS.measured):
            return words.unmoved(self._unmoved)
        return words.verdict(self.measured, self._step, self._sharpness is not None)

    def branch(
        self,
        steps: int = 50,
        *,
        batches: Iterable[Any],
        loss: Callable[[Any], Tensor],
        before_step: Callable[[], Any] | None = None,
    ) -> dict[str, float]:
        """Make the branch test: train on from here at lr/10, lr and 3·lr, and put all back.

        The result is in branches.csv, from which ``lrlab.analysis`` reads whether a smaller lr
        would now win. At least 40 steps are needed for that.

        Args:
            steps: how many steps each branch makes.
            batches: gives as many batches; a loader begins anew if it is too short.
            loss: of one of the batches, a tensor of one number.
            before_step: called between backward and the optimizer's step, to clip gradients.

        Returns:
            The median loss over the last fifth of the steps of each branch: low, same and high.

        Raises:
            UserError: there are no batches, or no step was made.
        """
        if not is_whole(steps) or steps < 1:
            raise UserError(f"steps={steps!r}: must be a whole number, 1 or more")
        _check_callable("loss", loss, "lambda batch: loss_fn(model(batch[0]), batch[1])")
        if before_step is not None:
            _check_callable("before_step", before_step, "lambda: clip_grad_norm_(parameters, 1.0)")
        if not isinstance(batches, Iterable):
            raise UserError(f"batches={batches!r}: must be a loader or a list of batches")
        with random_state_kept(gpus(self.model.parameters())):
            taken = _take(batches, steps)
        self._check_open()
        lr = _lrs_of(self.optimizer)[0]
        rows = branching.branches(self.model, self.optimizer, loss, taken, before_step)
        self._fetch()
        numbered = [(self.steps + i, lr, *row) for i, row in enumerate(rows)]
        records.write_branches(self.folder, numbered)
        last = np.array(rows[-max(1, steps // 5) :])
        return dict(zip(records.MULTIPLIERS, np.median(last, axis=0).tolist(), strict=True))

    def close(self, state: str = "finished") -> None:
        """End the run's record; the end of the program does so, too, unless it ended by an error.

        Args:
            state: finished or interrupted.

        Raises:
            UserError: it is neither.
        """
        if state not in ("finished", "interrupted"):
            raise UserError(f"state={state!r}: must be finished or interrupted")
        if self._state != "running" or os.getpid() != self._pid:
            return
        self._fetch()
        self._state = state
        self._write()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _check_open(self) -> None:
        if self._state != "running":
            raise UserError(f"{self.folder}: this probe is closed; make another for more steps")

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("finished" if kind is None else "interrupted")

    # --- what a step does -------------------------------------------------------------------------

    def _counted(self) -> None:
        self.steps += 1
        self._error = _last_error()
        self._due = self._due or _is_due(self.steps, self.every)

    def _measure(
        self, before: list[Tensor], lrs: tuple[float, ...], loss: Loss, batch: tuple[Any, ...]
    ) -> None:
        groups = [group["params"] for group in self.optimizer.param_groups]
        try:
            if sum(map(len, groups)) != len(before):
                raise UserError("optimizer: its parameters changed within probe.step")
            found = measure(self.model, groups, before, loss, batch, self._ratio(lrs))
            self._record(found, lrs)
        except Exception as error:
            if not self.measured:
                raise
            warnings.warn(f"lrlab.Probe: step {self.steps} was not measured: {error}", stacklevel=4)
            self._due = False

    def _record(self, found: Measured | None, lrs: tuple[float, ...]) -> None:
        if found is None:  # a gradient scaler left the step out; the next one is measured
            self._unmoved += 1
            return
        self._due, self._unmoved = False, 0
        found = replace(found, lr=lrs[0], lrs=lrs)
        self._step = self.steps
        if not any(step == self.steps for step, _, _ in self._losses[-1:]):
            self._losses.append((self.steps, lrs[0], torch.tensor(found.loss)))
        self.measured.append(found)
        nonfinite = self._nonfinite
        self._fetch()
        values = (found.alpha, math.nan, found.stability_ratio, math.nan, found.grad_norm)
        row = (self.steps, *values, found.update_ratio, math.nan)
        records.append_diagnostics(self.folder, [row])
        records.append_probe(self.folder, self.steps, vars(found))
        if len(self.measured) == 1 or self._nonfinite != nonfinite:
            self._write()

    def _ratio(self, lrs: tuple[float, ...]) -> Callable[[], float] | None:
        sharpness = self._sharpness
        return None if sharpness is None else lambda: sharpness.ratio(self.optimizer, lrs)

    def _fetch(self) -> None:
        """Write the losses that were recorded since, in one transfer from the device."""
        if not self._losses:
            return
        steps, lrs, tensors = zip(*self._losses, strict=True)
        self._losses = []
        values = torch.stack([t.float().mean() for t in tensors]).tolist()
        cells = {"step": steps, "epoch": [0] * len(steps), "lr": lrs, "train_loss": values}
        records.append_metrics(self.folder, cells)
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value):
                self._nonfinite = None  # the training has come back
            elif self._nonfinite is None:
                self._nonfinite = step

    def _write(self) -> None:
        state = self._state
        if state == "finished" and self._nonfinite is not None:
            state = "diverged"
        first = self.measured[0].loss if self.measured else None
        folders.summary(
            self.folder,
            state,
            self.steps,
            self._about,
            initial_loss=first,
            first_nonfinite_step=self._nonfinite,
        )


class _Step:
    """One step: on most of them it only counts."""

    __slots__ = ("_batch", "_before", "_loss", "_lrs", "_probe")

    def __init__(self, probe: Probe, loss: Loss | None = None, batch: tuple[Any, ...] = ()) -> None:
        self._probe, self._loss, self._batch = probe, loss, batch
        self._before: list[Tensor] | None = None
        self._lrs: tuple[float, ...] = ()

    def __enter__(self) -> None:
        self._probe._check_open()
        if self._probe._due:
            self._lrs = _lrs_of(self._probe.optimizer)  # a scheduler may step before the end
            groups = self._probe.optimizer.param_groups
            self._before = [p.detach().clone() for group in groups for p in group["params"]]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._loss is not None:
            self.end(self._loss, *self._batch)

    def end(self, loss: Loss, *batch: Any) -> None:
        """Measure the step if it is due, and count it; arguments as for ``Probe.step``."""
        if self._before is not None:
            self._probe._measure(self._before, self._lrs, loss, batch)
        self._probe._counted()


def _check(model: Any, optimizer: Any, every: Any, lr: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"model: must be a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise UserError(
            f"optimizer: must be a torch.optim.Optimizer, not {kind}; take a probe for each"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UserError(
            "optimizer: LBFGS searches its own step lengths by evaluating the loss; a probe "
            "measures optimizers that take one step at a given lr"
        )
    if not is_whole(every) or every < 1:
        raise UserError(f"every={every!r}: must be a whole number of steps, 1 or more")
    if lr is not None and not is_rate(lr):
        raise UserError(f"lr={lr!r}: must be {A_RATE}")
    for group in optimizer.param_groups:
        if not isinstance(group.get("lr"), int | float | Tensor):
            raise UserError(f"optimizer: its lr is {group.get('lr')!r}; a probe needs a number")


def _check_callable(name: str, value: Any, example: str) -> None:
    if not callable(value):
        kind = type(value).__name__
        raise UserError(f"{name}: must be a function, such as {example}, not {kind}")


def _is_due(step: int, every: int) -> bool:
    return step % every == 0 or (step < every and step & (step - 1) == 0)


def _initial_lr(optimizer: torch.optim.Optimizer) -> float:
    """Return the lr by which a run is known: the highest of a one-cycle, else the first one."""
    group = optimizer.param_groups[0]
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def _lrs_of(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    return tuple(float(group["lr"]) for group in optimizer.param_groups)


def _last_error() -> int:
    """Return which error has last come up to the interpreter; a notebook's stays there for good."""
    return id(getattr(sys, "last_value", None))


def _take(batches: Iterable[Any], count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        before = len(found)
        found += itertools.islice(iter(batches), count - before)
        if len(found) == before:
            some = f"only {before} of {count}" if before else "none"
            raise UserError(f"batches: gives {some}; give a loader or a list of batches")
    return found


@atexit.register
def _end() -> None:
    """Close the probes of a program that ends by itself; after an error they stay as they are."""
    for probe in list(_open):
        with contextlib.suppress(Exception):
            probe.close("finished" if probe._error == _last_error() else "interrupted")
