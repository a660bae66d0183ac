"""Read TensorBoard's event files, and the CSVs that its page downloads."""

from __future__ import annotations

import math
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrlab.errors import UserError, in_a_line
from lrlab.logs import columns, lightning
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, log_of, settings_columns
from lrlab.records import files
from lrlab.tables.text_table import Table

CSV, EVENTS = "TensorBoard CSV", "TensorBoard"
EVENT_FILE = "events.out.tfevents"
_TAGGED = re.compile(r"(?:run-)?(?P<run>.+?)-tag-(?P<tag>.+)")
_OF_VAL = {"val", "valid", "validation", "eval", "evaluation"}
_OF_TRAIN = {"train", "training"}

Points = dict[str, list[tuple[float, float, float]]]  # by tag: step, wall time, value


def takes(table: Table, wanted: Wanted) -> bool:
    return {name.lower() for name in table.names} == {"wall time", "step", "value"}


def read(table: Table, wanted: Wanted) -> list[Log]:
    """Return the one run of a downloaded CSV; its file's name says which loss it is.

    Raises:
        UserError: a cell is no number, or the name says that it is no loss.
    """
    by_name = {name.lower(): name for name in table.names}
    run, tag = _run_and_tag(table.file)
    role, whence = _role(table, run, tag, dict(wanted.columns))
    log = log_of(table, CSV, {"step": by_name["step"], role: by_name["value"]})
    start = table.numbers(by_name["wall time"])
    rows: Any = log.rows.assign(seconds=start - start[0] if len(start) else start)
    took = {**log.took, role: f"Value ({whence})"}
    lr_from = ""
    if role == "lr_at_step":
        rows = rows.assign(lr=float(rows["lr_at_step"].max()))
        lr_from = f"{tag}, the highest of each run"
    return [Log(log.place, CSV, rows, took, lr_from, log.notes, log.written)]


def _run_and_tag(file: Path) -> tuple[str, str]:
    """Return the run and the tag in the name of a download; no run, and the name, in another's.

    Keras writes a run's training and validation as two, whose folders are train and validation.
    """
    match = _TAGGED.fullmatch(file.stem)
    return (match["run"], match["tag"]) if match else ("", file.stem)


def _part_of_run(run: str) -> tuple[str, str]:
    """Return a run's name without a last train or validation, and that word."""
    rest, _, last = run.replace("\\", "_").rpartition("_")
    if last.lower() in _OF_VAL | _OF_TRAIN:
        return rest or "run", last.lower()
    return run, ""


def _role(table: Table, run: str, tag: str, given: dict[str, str]) -> tuple[str, str]:
    """Return what a download holds, by our name, and how that is known.

    Raises:
        UserError: its name says that it is something else.
    """
    named = (tag.lower(), "value") if not run else (tag.lower(),)
    asked = [ours for ours, theirs in given.items() if theirs.lower() in named]
    if asked:
        return asked[0], f"--column {asked[0]}"
    told = set(columns.words(tag))
    is_val = bool(told & _OF_VAL) or _part_of_run(run)[1] in _OF_VAL
    role = "val_loss" if is_val else "train_loss"
    part = columns.loss_of(tag)
    may_be = not run and not columns.is_measured(tag) and not columns.is_lr(tag)
    if part != "test" and (part or may_be):
        if role in given:
            raise UserError(f"{table.file}: is another loss than --column={role}={given[role]}")
        return role, "its name" if part or is_val else "assumed"
    if run and columns.lr([tag])[1]:
        return "lr_at_step", "its name"
    raise UserError(
        f"{table.file}: is of {in_a_line(tag)[:60]} by its name, which is no train or val loss; "
        f"if it is one, add --column train_loss={shlex.quote(tag) if run else 'Value'}"
    )


def joined(logs: Sequence[Log]) -> list[Log]:
    """Return logs of CSVs, those of one run and different tags as one.

    Raises:
        UserError: two tags may be the same loss.
    """
    found: dict[tuple[Path, str], list[Log]] = {}
    others: list[Log] = []
    for log in logs:
        run = _part_of_run(_run_and_tag(log.place)[0])[0] if log.program == CSV else ""
        if run:
            found.setdefault((log.place.parent, run), []).append(log)
        else:
            others.append(log)
    return others + [_joined(of, run) for (_, run), of in found.items()]


def _joined(logs: Sequence[Log], run: str) -> Log:
    """Return the downloads of one run as one log."""
    one = logs[0]
    of_role: dict[str, dict[str, Log]] = {}
    for log in logs:
        role = next(ours for ours in log.took if ours != "step")
        of_role.setdefault(role, {})[_run_and_tag(log.place)[1]] = log
    chosen = [_best(role, of_tag) for role, of_tag in of_role.items()]
    rows: Any = pd.concat([log.rows for log in chosen], ignore_index=True)
    order = np.argsort(rows["step"].to_numpy(dtype=float), kind="stable")
    losses = {name for log in chosen for name in log.written}
    written = {
        name: np.concatenate(
            [log.written.get(name, np.zeros(len(log.rows), bool)) for log in chosen]
        )[order]
        for name in losses
    }
    rows = rows.iloc[order].reset_index(drop=True)
    if "lr_at_step" in rows:
        rows = rows.assign(lr=rows["lr_at_step"].max(), lr_at_step=rows["lr_at_step"].ffill())
    return replace(
        one,
        place=one.place.with_name(f"{run}.csv"),
        rows=rows,
        took={name: told for log in chosen for name, told in log.took.items()},
        lr_from=next((log.lr_from for log in chosen if log.lr_from), ""),
        notes=tuple(dict.fromkeys(note for log in logs for note in log.notes)),
        written=written,
    )


def _best(role: str, of_tag: Mapping[str, Log]) -> Log:
    """Return the log of the tag that is most likely meant."""
    one = next(iter(of_tag.values()))
    if len(of_tag) == 1 or not role.endswith("_loss"):
        return one
    part = role.removesuffix("_loss")
    tags = {tag if columns.loss_of(tag) == part else f"{part}/{tag}": tag for tag in of_tag}
    best = columns.best_loss(tags, part, lambda tag: len(of_tag[tags[tag]].rows), one.place.parent)
    return one if best is None else of_tag[tags[best]]


# --- event files ----------------------------------------------------------------------------------


def run_of(file: Path, top: Path) -> Path:
    """Return the folder of the run that an event file belongs to.

    Keras writes a run's training and validation into folders train and validation of one, and
    add_scalars("loss", {"train": ..., "val": ...}) into loss_train and loss_val of one. Others call
    two folders run_train and run_val.
    """
    folder = file.parent
    if folder == top:
        return folder
    name = folder.name.lower()
    if name in _OF_VAL | _OF_TRAIN:
        return folder.parent
    rest, part = _part_of_run(folder.name)
    if not part:
        return folder
    if any(each.name.startswith(EVENT_FILE) for each in files.entries(folder.parent)):
        return folder.parent
    others = [_part_of_run(each.name) for each in files.entries(folder.parent) if each.is_dir()]
    alike = {of for other, of in others if other == rest and of}
    return folder.with_name(rest) if len(alike) > 1 else folder


def read_events(folder: Path, event_files: Sequence[Path], wanted: Wanted) -> list[Log]:
    """Return the one run of some event files.

    Raises:
        UserError: tensorboard is missing, a file is damaged, or no tag is a loss.
    """
    points: Points = {}
    hparams: dict[str, Any] = {}
    for file in sorted(event_files):
        part = file.parent.name.lower() if file.parent != folder else ""
        for tag, values in _scalars(file, hparams).items():
            points.setdefault(f"{part}/{tag}" if part else tag, []).extend(values)
    if not points:
        raise UserError(f"{folder}: its event files hold no numbers")
    roles, told = _roles(folder, points, wanted)
    by_role: dict[str, Any] = {
        ours: pd.DataFrame(points[tag], columns=["step", "wall", ours])
        for ours, tag in roles.items()
    }
    start = min(float(each["wall"].min()) for each in by_role.values())
    rows: Any = pd.concat(list(by_role.values()), ignore_index=True).sort_values(
        ["step", "wall"], kind="stable", ignore_index=True
    )
    if _restarts(by_role):
        rows = rows.sort_values("wall", kind="stable", ignore_index=True)
    written = {
        ours: np.isnan(rows[ours].to_numpy(dtype=float)) & _of(rows, by_role, ours)
        for ours in ("train_loss", "val_loss")
        if ours in rows
    }
    rows = rows.assign(run="", seconds=rows["wall"] - start).drop(columns="wall")
    lr, lr_from = math.nan, ""
    if "lr_at_step" in rows and rows["lr_at_step"].notna().any():
        lr = float(rows["lr_at_step"].max())
        lr_from = f"{roles['lr_at_step']}, the highest of each run"
        rows["lr_at_step"] = rows["lr_at_step"].ffill()
    name = wanted.lr_column if wanted.lr_column in hparams else lightning.lr_name(hparams)
    beside, notes = lightning.hyperparameters(folder / lightning.HPARAMS)
    if name is not None:
        lr, lr_from = float(hparams[name]), "its hparams"
    elif (name := lightning.lr_name(beside)) is not None:
        lr, lr_from = float(beside[name]), lightning.HPARAMS
    rows = rows.assign(lr=lr, **settings_columns({**beside, **hparams}, "hparams"))
    took = {"step": "step", **roles}
    return [Log(folder, EVENTS, rows, took, lr_from, (*told, *notes), written)]


def _of(rows: pd.DataFrame, by_role: Mapping[str, pd.DataFrame], ours: str) -> np.ndarray:
    """Return (rows,) whether a row is of this tag, which it is where no other tag has a value."""
    others = [name for name in by_role if name != ours]
    return rows.loc[:, others].isna().all(axis=1).to_numpy() if others else np.ones(len(rows), bool)


def _restarts(by_role: Mapping[str, pd.DataFrame]) -> bool:
    """Return whether steps begin again later in time, as in a resumed run."""
    return any(
        bool((each.sort_values("wall", kind="stable")["step"].diff() < 0).any())
        for each in by_role.values()
    )


def _roles(folder: Path, points: Points, wanted: Wanted) -> tuple[dict[str, str], list[str]]:
    """Return the tag of each of our columns, and lines about them."""
    roles: dict[str, str] = {}
    given = dict(wanted.columns)
    if wanted.lr_column in points:
        given["lr_at_step"] = wanted.lr_column
    for ours, tag in given.items():
        if tag not in points:
            listed = in_a_line(", ".join(points))[:160]
            raise UserError(f"--column={ours}={tag}: {folder} has no such tag; it has {listed}")
        roles[ours] = tag
    tags = [tag for tag in points if tag not in roles.values()]
    columns.add_losses(roles, tags, lambda name: len(points[name]), folder)
    if "train_loss" not in roles and "val_loss" not in roles:
        listed = in_a_line(", ".join(points))[:160]
        raise UserError(
            f"{folder}: none of its tags is a loss ({listed}); say which one is: "
            "--column train_loss=TAG"
        )
    last = {tag: max(point[0] for point in each) for tag, each in points.items()}
    free = [tag for tag in tags if "train_loss" not in given]
    notes = columns.with_like_steps(roles, free, last.__getitem__)
    base, of_step = columns.lr(tags)
    if (rate := of_step or base) is not None:
        highest = {tag: max(point[2] for point in points[tag]) for tag in columns.like_lr(tags)}
        notes += columns.other_rates(rate, highest)
    for ours, tag in (("lr_at_step", of_step or base), ("grad_norm", columns.grad_norm(tags))):
        if tag is not None:
            roles.setdefault(ours, tag)
    if (epoch := columns.epoch(tags)) is not None:
        roles.setdefault("epoch", epoch)
    return roles, notes


def _scalars(file: Path, hparams: dict[str, Any]) -> Points:
    """Return the scalars of an event file by tag; adds the hyperparameters that it names.

    Raises:
        UserError: tensorboard is missing, or the file is damaged before its first number.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
            from tensorboard.util import tensor_util
    except ImportError:
        raise UserError(
            f"{file}: is an event file of TensorBoard; to read it, pip install 'lrlab[tensorboard]'"
        ) from None
    found: Points = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "hparams":
                        hparams.update(_hparams(value.metadata.plugin_data.content))
                        continue
                    if not value.HasField("tensor"):
                        continue
                    if value.tensor.dtype not in (1, 2):  # float, double
                        continue
                    array = tensor_util.make_ndarray(value.tensor)
                    if array.size == 1:
                        point = float(event.step), float(event.wall_time), float(array.item())
                        found.setdefault(value.tag, []).append(point)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except Exception as error:  # whatever a damaged file makes protobuf raise
        if not found:
            reason = in_a_line(str(error))[:80] or type(error).__name__
            raise UserError(f"{file}: is damaged, no event file ({reason})") from None
    return found


def _hparams(content: bytes) -> dict[str, Any]:
    """Return the hyperparameters that TensorBoard's hparams plugin wrote."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    messages: Any = plugin_data_pb2
    data = messages.HParamsPluginData.FromString(content)
    found: dict[str, Any] = {}
    for name, value in data.session_start_info.hparams.items():
        kind = value.WhichOneof("kind")
        if kind in ("number_value", "string_value", "bool_value"):
            found[name] = getattr(value, kind)
    return found
