"""``python -m lrlab.reproduce outputs/<sweep>/2``: train a run again, alone, and compare.

The exit code is 0 if the new run equals the record, to the bit or within the tolerance, 1 if it
does not, 2 for input that cannot work.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab import __version__, places, readers, records, verbs
from lrlab import config as configs
from lrlab.errors import NotWritten, UserError, printable

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-3  # nats: other versions and devices round otherwise, and training amplifies it

# What may differ in the environment without changing a bit.
HARMLESS = ("platform", "lrlab", "hydra_core", "omegaconf", "optuna", "pandas", "python")


@dataclass(frozen=True)
class Comparison:
    """Two curves of the same run.

    Attributes:
        steps: how many training steps the record has.
        identical: how many of them are equal to the bit.
        first: the first step that differs in a loss or an evaluation, or None.
        largest: the largest difference of a loss or accuracy; inf where one is not finite and the
            other is, or where one run is longer.
        where: the step and column of the largest difference.
    """

    steps: int
    identical: int
    first: int | None
    largest: float
    where: tuple[int, str] | None


def compare(record: pd.DataFrame, again: pd.DataFrame) -> Comparison:
    """Compare two tables of metrics, bit by bit.

    Args:
        record, again: as ``records.read_metrics`` gives them.
    """
    import numpy as np

    columns = ["lr", "train_loss", "val_loss", "val_acc"]
    steps = sorted(set(record["step"]) | set(again["step"]))
    old = record.drop_duplicates("step").set_index("step").reindex(steps)[columns].to_numpy()
    new = again.drop_duplicates("step").set_index("step").reindex(steps)[columns].to_numpy()
    # A blank and a NaN read alike. Only a step that one run lacks altogether is another thing.
    has_old, has_new = np.isin(steps, record["step"]), np.isin(steps, again["step"])
    with np.errstate(invalid="ignore"):
        difference = np.abs(old - new)
    equal = (old == new) | (np.isnan(old) & np.isnan(new))
    difference[equal] = 0.0
    difference[~equal & ~np.isfinite(difference)] = np.inf
    difference[has_old != has_new, :] = np.inf
    same = (difference == 0).all(axis=1)

    trained = record["lr"].notna()  # the last row is an evaluation, no step
    recorded = set(record["step"][trained])
    identical = sum(
        1 for step, is_same in zip(steps, same, strict=True) if is_same and step in recorded
    )
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
    """What differs in the environment of two summaries, those that may change bits first."""
    old, new = record.get("environment") or {}, again.get("environment") or {}
    keys = sorted(set(old) | set(new), key=lambda key: (key in HARMLESS, key))
    found = [
        f"{key}: {old.get(key)} in the record, {new.get(key)} here"
        for key in keys
        if old.get(key) != new.get(key)
    ]
    if _other_data(record, again):
        found.insert(0, "data: the training data are not those of the record")
    return found


def _other_data(record: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    return record.get("data_sha256") not in (None, again.get("data_sha256"))


def _hydra_records(run: Path) -> Iterator[Any]:
    """Hydra's part of the config that was saved of the run, and before it of its sweep."""
    import yaml

    texts = []
    with contextlib.suppress(OSError, UserError):
        texts.append(records.read_sweep_config(run.resolve().parent))
    with contextlib.suppress(OSError, UserError):
        texts.append(records.read_texts(run)[0])
    for text in texts:
        with contextlib.suppress(yaml.YAMLError, AttributeError):
            yield yaml.safe_load(text).get("hydra")


def _device(run: Path, environment: Mapping[str, Any]) -> str | None:
    told = environment.get("device")
    if told is None or (isinstance(told, str) and "${" not in told):
        return told
    raise UserError(f"{run}: its summary.json is damaged, its device is {told}")


def _count(run: Path, name: str, told: Any) -> int | None:
    if not told:
        return None
    if type(told) is int and told > 0:
        return told
    raise UserError(f"{run}: its summary.json is damaged, its {name} is {told}")


def reproduce(
    run: Path, output: Path, tolerance: float, device: str | None, trusted: bool = False
) -> bool:
    """Train a recorded run again into a new folder, print how it compares, say if it agrees.

    Args:
        trusted: whether all that the record's config names may be called.

    Raises:
        UserError: no such run, one that cannot be trained here, or one whose config names what
            `lrlab.trust` does not know and that is not trusted.
    """
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    records.check_contained(run)
    text = records.read_config(run)
    places.go_back(run.resolve().parent, _hydra_records(run), trusted)
    try:
        summary = records.read_summary(run)
        record = records.read_metrics(run)
    except FileNotFoundError as error:
        raise UserError(f"{run}: has no record to compare with, {error.filename}") from None
    if "state" not in summary:
        raise UserError(f"{run}: its summary.json is damaged, it lacks the run's state")
    if record.empty:
        raise UserError(f"{run}: has recorded no step, there is nothing to compare with")

    from lrlab import environment, launch, plan, table, trust

    environment.make_deterministic()
    try:
        saved = OmegaConf.create(records.options(text))
        config = OmegaConf.merge(OmegaConf.structured(configs.Config), saved)
        assert isinstance(config, DictConfig)
        again = f"python -m lrlab.reproduce {table.typed_path(run)} {trust.TRUST}"
        config = trust.settled(config, configs.GROUPS, str(run), again, trusted)
        # From here on no text of the record is resolved: what follows changes nothing else.
        told = summary.get("environment") or {}
        config.device = device or _device(run, told) or config.device
        config.threads = config.threads or _count(run, "threads", told.get("threads"))
        if "pad" in (lanes := summary.get("lanes") or {}):  # a GPU's bits hang on it
            config.pad = _count(run, "pad", lanes["pad"])
        config.profile = False
        config.diagnostics = "off"  # they change no bit, and only the curve is compared
        choices = records.read_choices(run) or summary
        number = int(summary.get("run", 0))
        folder = records.free_folder(
            (output / f"reproduce_{run.resolve().parent.name}_{run.resolve().name}").absolute(),
            may_rename=True,
        )
        swept = {key: str(config[key]) for key in ("lr", "seed")}
        spec = plan.run_spec(number, folder / str(number), config, choices, swept)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{run}: its config is damaged: {configs.one_line(error)}") from None
    except (ValueError, TypeError, YAMLError, RecursionError) as error:
        raise UserError(f"{run}: its config is damaged: {str(error).splitlines()[0]}") from None
    plan.check_runs([spec])
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

    again = records.read_summary(spec.folder)
    if again["state"] == "failed":
        print(printable(f"failed: {again['error']}; see {spec.folder / 'run.log'}"))
        return False
    metrics = records.read_metrics(spec.folder)
    unfinished = summary["state"] not in ("finished", "diverged")
    if unfinished:  # the record ends somewhere; only so far can it be compared
        last = record["step"].max()
        metrics = metrics.loc[metrics["step"] <= last].copy()
        if record["lr"].isna().iloc[-1]:  # pruned: its last row has an evaluation only
            metrics.loc[metrics["step"] == last, ["lr", "train_loss"]] = float("nan")
    found = compare(record, metrics)
    final = {
        key: (summary.get(key), again.get(key))
        for key in ("state", "train_loss", "test_loss", "test_acc")
        if summary.get(key) != again.get(key) and not unfinished
    }
    records.write_provenance(
        spec.folder, provenance | {"comparison": vars(found), "final_results_that_differ": final}
    )
    agrees = found.largest <= tolerance and "state" not in final
    print(printable(verdict(found, final, tolerance)))
    if unfinished:
        state = printable(str(summary["state"]))
        print(f"the record ends there ({state}), the new run went on to its end")
    if found.first is not None or final or _other_data(summary, again):
        for line in differences(summary, again) or ["versions, device and threads are the same"]:
            print(printable(f"  {line}"))
    print(printable(f"run    {table.display_path(spec.folder)}"))
    return agrees


def verdict(found: Comparison, final: Mapping[str, tuple[Any, Any]], tolerance: float) -> str:
    """The comparison in words."""
    if found.first is None and not final:
        return f"identical: {found.steps} of {found.steps} steps, bitwise"
    lines = []
    if found.first is not None:
        step, column = found.where or (found.first, "")
        within = "within" if found.largest <= tolerance else "beyond"
        lines.append(
            f"first difference at step {found.first}: {found.identical} of {found.steps} steps are "
            f"identical; the largest difference is {found.largest:.3g} ({column} at step {step}), "
            f"{within} the tolerance of {tolerance:g}"
        )
    lines += [f"{key}: {old} in the record, {new} here" for key, (old, new) in final.items()]
    return "\n".join(lines)


def main() -> None:
    """Command line entry."""
    readers.outlive()
    parser = verbs.Parser(
        prog="python -m lrlab.reproduce",
        description="Train a recorded run again, alone, and compare it with its record.",
        epilog="Exit code: 0 equal or within the tolerance, 1 beyond it, 2 bad input.",
    )
    parser.add_argument(
        "run", type=verbs.path, help="a run's folder, for example outputs/my_sweep/2"
    )
    parser.add_argument(
        "trust",
        nargs="?",
        default="trust=false",
        metavar="trust=true",
        help="also call what the run's config names beside lrlab, torch and torchvision: a class "
        "of yours, or of a sender whom you trust",
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
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    try:
        arguments = parser.parse_args()
        if not arguments.tolerance >= 0:
            raise UserError(
                f"--tolerance={arguments.tolerance}: must be at least 0; 0 asks for equal bits"
            )
        from lrlab.trust import without_trust

        rest, trusted = without_trust([arguments.trust])
        if rest:
            raise UserError(f"{rest[0]}: behind the run there can only be trust=true")
        agrees = reproduce(
            arguments.run, arguments.output, arguments.tolerance, arguments.device, trusted
        )
    except UserError as error:
        print(f"lrlab: {error}", file=sys.stderr)
        sys.exit(2)
    except NotWritten as error:
        print(f"lrlab: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("lrlab: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0 if agrees else 1)


if __name__ == "__main__":
    main()
