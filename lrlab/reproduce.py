"""``python -m lrlab.reproduce outputs/<sweep>/2``: train a run again, alone, and compare."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab import records
from lrlab._version import __version__
from lrlab.config import data_paths, schema
from lrlab.config.words import messages
from lrlab.errors import NotWritten, UserError, printable
from lrlab.process import fitting, only_json, verbs
from lrlab.training import recheck

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-3  # nats; other versions and devices round differently, which training amplifies

# Differences of the environment that change no bit.
HARMLESS = ("platform", "lrlab", "hydra_core", "omegaconf", "optuna", "pandas", "python")


@dataclass(frozen=True)
class Comparison:
    """Two curves of the same run."""

    steps: int  # how many training steps the record has
    identical: int  # how many of them are equal to the bit
    first: int | None  # the first step that differs in a loss or an evaluation
    # The largest difference of a loss or accuracy; inf if only one of the two is finite, or if one
    # run is longer.
    largest: float
    where: tuple[int, str] | None  # the step and column of the largest difference


def compare(record: pd.DataFrame, again: pd.DataFrame) -> Comparison:
    """Compare two tables of metrics, bit by bit.

    Args:
        record, again: as ``records.read_metrics`` gives them.
    """
    import numpy as np

    columns = ["lr", "train_loss", "val_loss", "val_acc", "epoch"]
    steps = sorted(set(record["step"]) | set(again["step"]))
    old, new = (
        table.drop_duplicates("step").set_index("step").reindex(steps)[columns].to_numpy()
        for table in (record, again)
    )
    # An empty cell and a NaN count as equal, but a step that one run lacks as different.
    has_old, has_new = np.isin(steps, record["step"]), np.isin(steps, again["step"])
    with np.errstate(invalid="ignore"):
        difference = np.abs(old - new)
    equal = (old == new) | (np.isnan(old) & np.isnan(new))
    difference[equal] = 0.0
    difference[~equal & ~np.isfinite(difference)] = np.inf
    difference[has_old != has_new, :] = np.inf
    same = (difference == 0).all(axis=1)

    trained = record["lr"].notna()  # the last row is an evaluation, not a step
    recorded = set(record["step"][trained])
    identical = sum(step in recorded for step in np.array(steps)[same].tolist())
    if same.all():
        return Comparison(len(recorded), identical, None, 0.0, None)
    row, column = np.unravel_index(int(np.argmax(difference)), difference.shape)
    return Comparison(
        steps=len(recorded),
        identical=identical,
        first=int(steps[int(np.argmin(same))]),
        largest=float(difference[row, column]),
        where=(int(steps[row]), columns[column]),
    )


def differences(record: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Return how the environments of two summaries differ, those first that may change bits."""
    old, new = record.get("environment") or {}, again.get("environment") or {}
    keys = sorted(set(old) | set(new), key=lambda key: (key in HARMLESS, key))
    found = [
        f"{key}: {old.get(key)} in the record, {new.get(key)} here"
        for key in keys
        if old.get(key) != new.get(key)
    ]
    if record.get("data_sha256") not in (None, again.get("data_sha256")):
        found.insert(0, "data: the training data are not those of the record")
    return found


def _hydra_records(run: Path) -> Iterator[Any]:
    """Yield Hydra's part of the config, first as saved with the sweep, then with the run."""
    import yaml

    texts: list[str] = []
    with contextlib.suppress(OSError, UserError):
        texts.append(records.read_sweep_config(run.resolve().parent))
    with contextlib.suppress(OSError, UserError):
        texts.append(records.read_texts(run)[0])
    for text in texts:
        with contextlib.suppress(yaml.YAMLError, AttributeError):
            yield records.plain_yaml(text).get("hydra")


def _checked(run: Path, name: str, value: Any) -> Any:
    """Return a device, or a number of threads or of padded lanes, from a summary."""
    is_device = isinstance(value, str) and "${" not in value
    is_count = type(value) is int and value > 0
    if not value or (is_device if name == "device" else is_count):
        return value or None
    raise UserError(f"{run}: its summary.json is damaged, its {name} is {value}")


def reproduce(
    run: Path,
    output: Path,
    tolerance: float,
    device: str | None,
    trusted: bool = False,
    answered: Callable[[dict[str, Any]], object] = lambda found: None,
) -> bool:
    """Train a recorded run again into a new folder, and compare; return whether they agree.

    Args:
        trusted: whether everything that the record's config names may be called.
        answered: called at the end with the result, as ``--json`` prints it.

    Raises:
        UserError: there is no such run, it cannot be trained here, or its config names something
            that `lrlab.config.trust` does not know and the user has not trusted.
    """
    from omegaconf import DictConfig, OmegaConf
    from yaml import YAMLError

    records.check_contained(run)
    text = records.read_config(run)
    data_paths.go_back(run.resolve().parent, _hydra_records(run), trusted)
    try:
        summary = records.read_summary(run)
        record = records.read_metrics(run)
    except FileNotFoundError as error:
        raise UserError(
            f"{run}: has no record to compare with; {error.filename} is missing"
        ) from None
    if "state" not in summary:
        raise UserError(f"{run}: its summary.json is damaged, it lacks the run's state")
    if record.empty:
        raise UserError(f"{run}: has recorded no step, so there is nothing to compare with")

    from lrlab.config import hydra_store, trust
    from lrlab.engine import devices
    from lrlab.plan import checks
    from lrlab.plan.spec import run_spec
    from lrlab.process import paths
    from lrlab.sweeping import launch

    devices.make_deterministic()
    try:
        saved = OmegaConf.create(records.options(text))
        config = OmegaConf.merge(OmegaConf.structured(schema.Config), saved)
        assert isinstance(config, DictConfig)
        again = f"python -m lrlab.reproduce {paths.typed_path(run)} {trust.TRUST}"
        config = trust.settled(config, schema.GROUPS, str(run), again, trusted)
        # From here on no text of the record is resolved, so these changes change nothing else.
        told = summary.get("environment") or {}
        config.device = device or _checked(run, "device", told.get("device")) or config.device
        config.threads = config.threads or _checked(run, "threads", told.get("threads"))
        if "pad" in (lanes := summary.get("lanes") or {}):  # a GPU's bits depend on it
            config.pad = _checked(run, "pad", lanes["pad"])
        config.profile = False
        if not (run / "diagnostics.csv").is_file():
            config.diagnostics = "off"  # the record has nothing to compare them with
        choices = records.read_choices(run) or summary
        number = int(summary.get("run", 0))
        folder = records.free_folder(
            (output / f"reproduce_{run.resolve().parent.name}_{run.resolve().name}").absolute(),
            may_rename=True,
        )
        # the summary names the other swept settings
        varied = [key for key in summary if "." in key]
        swept = {key: str(config[key]) for key in ("lr", "seed")} | dict.fromkeys(varied, "")
        spec = run_spec(number, folder / str(number), config, choices, swept)
    except hydra_store.ERRORS as error:
        raise UserError(f"{run}: its config is damaged: {messages.one_line(error)}") from None
    except (ValueError, TypeError, YAMLError, RecursionError) as error:
        raise UserError(f"{run}: its config is damaged: {str(error).splitlines()[0]}") from None
    checks.check_runs([spec])
    records.create_sweep(folder)
    records.create_run(spec.folder, text, *records.read_texts(run))
    provenance = {
        "reproduces": str(run.resolve()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(sys.argv),
        "record": summary,
    }
    records.write_provenance(spec.folder, provenance)
    launch.train([spec])
    if (end := records.end_file(spec.folder)).is_file():
        if (run / "branches.csv").is_file():
            launch.test_branches([spec])
        end.unlink(missing_ok=True)

    again = records.read_summary(spec.folder)
    known = {"run": str(run.resolve()), "folder": str(spec.folder), "tolerance": tolerance}
    if again["state"] == "failed":
        print(printable(f"failed: {again['error']}; see {spec.folder / 'run.log'}"))
        answered({**known, "agrees": False, "error": again["error"]})
        return False
    metrics = records.read_metrics(spec.folder)
    unfinished = summary["state"] in recheck.UNFINISHED
    if unfinished:  # the record ends somewhere; compare only up to there
        last = record["step"].max()
        metrics = metrics.loc[metrics["step"] <= last].copy()
        if record["lr"].isna().iloc[-1]:  # pruned: its last row has only an evaluation
            metrics.loc[metrics["step"] == last, ["lr", "train_loss"]] = float("nan")
    found = compare(record, metrics)
    others = _others(run, spec.folder, summary, again, metrics)
    differing = {each.name: (each.record, each.here) for each in others}
    records.write_provenance(
        spec.folder, provenance | {"comparison": vars(found), "differences": differing}
    )
    forgiven = all(each.size <= tolerance for each in others)
    agrees = found.largest <= tolerance and forgiven
    answered(
        {
            **known,
            "agrees": agrees,
            "error": None,
            "bitwise": found.first is None and not others,
            "record_state": summary["state"],
            **vars(found),
            "differences": {each.name: [each.record, each.here] for each in others},
            "environment": differences(summary, again),
        }
    )
    width = fitting.terminal_width()
    lines = verdict(found, others, tolerance).splitlines()
    print(printable("\n".join(fitting.sentences(lines, width))))
    if unfinished:
        state = printable(str(summary["state"]))
        print(f"the record ends there ({state}); the new run went on to its end")
    if found.first is not None or others:
        for line in differences(summary, again) or ["versions, device and threads are the same"]:
            print(printable(fitting.wrapped("  ", line, width)))
    print(printable(f"run    {paths.display_path(spec.folder)}"))
    return agrees


def _others(
    run: Path,
    again_at: Path,
    summary: Mapping[str, Any],
    again: Mapping[str, Any],
    metrics: pd.DataFrame,
) -> list[recheck.Difference]:
    """Return the differences between the records apart from the curve.

    Args:
        run, again_at: the folders of the record and of the new run.
        metrics: the new run's, as far as the record goes.
    """
    found = recheck.of_summary(summary, again, run.resolve(), metrics)
    found += recheck.of_rows(run / "metrics.csv", list(records.METRICS))
    found += recheck.of_lr(records.read_metrics(run), metrics)
    whole = summary["state"] not in recheck.UNFINISHED
    for name, columns, read in (
        ("diagnostics.csv", records.DIAGNOSTICS, records.read_diagnostics),
        ("branches.csv", records.BRANCHES, records.read_branches),
    ):
        if not (run / name).is_file():
            continue
        found += recheck.of_rows(run / name, columns)
        try:
            old = read(run)
        except UserError as error:
            found.append(recheck.Difference(name, str(error).partition(": ")[2], "whole"))
            continue
        if not (again_at / name).is_file():
            if len(old):
                found.append(recheck.Difference(name, "there", "none"))
            continue
        rounding = recheck.MEASURING.get(name, 0.0)
        if differs := recheck.of_table(name, old, read(again_at), whole, rounding):
            found.append(differs)
    if model := recheck.of_model(records.model_file(run), records.model_file(again_at), whole):
        found.append(model)
    return found


def verdict(found: Comparison, others: Sequence[recheck.Difference], tolerance: float) -> str:
    """Return the comparison in words."""
    if found.first is None and not others:
        return f"identical: {found.steps} of {found.steps} steps, bitwise"
    line = f"all {found.steps} steps are identical, but the record differs in something else"
    if found.first is not None:
        step, column = found.where or (found.first, "")
        within = "within" if found.largest <= tolerance else "beyond"
        line = (
            f"first difference at step {found.first}: {found.identical} of {found.steps} steps are "
            f"identical; the largest difference is {found.largest:.3g} ({column} at step {step}), "
            f"{within} the tolerance of {tolerance:g}"
        )
    return "\n".join([line, *recheck.listed(others)])


def main() -> None:
    """Run the command."""
    verbs.begin()
    parser = verbs.Parser(
        prog="python -m lrlab.reproduce",
        description="Train a recorded run again, alone, and compare it with its record.",
        epilog="Exit code: 0 equal or within the tolerance, 1 beyond it, 2 bad input.",
    )
    parser.add_argument(
        "run", type=verbs.path, metavar="RUN", help="a run's folder, for example outputs/my_sweep/2"
    )
    parser.add_argument(
        "trust",
        nargs="?",
        default="trust=false",
        metavar="trust=true",
        help="also call code outside lrlab, torch and torchvision that the run's config names, "
        "because it is yours or you trust its sender",
    )
    parser.add_argument(
        "--output",
        type=verbs.path,
        default=Path("outputs"),
        help="folder for the new run (outputs)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help=f"largest difference of a loss or accuracy that still agrees ({TOLERANCE:g})",
    )
    parser.add_argument("--device", help="train on this device instead of the record's")
    parser.add_argument("--json", action="store_true", help=only_json.HELP)
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    try:
        arguments = parser.parse_args()
        if not arguments.tolerance >= 0:
            raise UserError(
                f"--tolerance={arguments.tolerance}: must be at least 0; 0 asks for equal bits"
            )
        from lrlab.config.trust import without_trust

        rest, trusted = without_trust([arguments.trust])
        if rest:
            raise UserError(f"{rest[0]}: only trust=true may follow the run's folder")
        found: dict[str, Any] = {}
        with only_json.stdout_free() if arguments.json else contextlib.nullcontext():
            agrees = reproduce(
                arguments.run,
                arguments.output,
                arguments.tolerance,
                arguments.device,
                trusted,
                found.update,
            )
        if arguments.json:
            only_json.show({**only_json.head("reproduce"), **found})
    except UserError as error:
        verbs.fail(str(error))
    except NotWritten as error:
        verbs.fail(str(error), code=1)
    except KeyboardInterrupt:
        verbs.fail("interrupted", code=130)
    sys.exit(0 if agrees else 1)


if __name__ == "__main__":
    main()
