"""``tracking=tensorboard`` and ``tracking=mlflow``: send the records to these trackers, too.

A tracker reads only a run's records, so the training loop does not know it. An error in a tracker
never harms a run: it is reported once, and the tracker is switched off.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lrlab import records
from lrlab.config import passwords, schema, trust
from lrlab.config.targets import HYDRA_KEYS, check_taken, located, taken
from lrlab.errors import NotWritten, UserError, must_be
from lrlab.process.plain import is_whole

if TYPE_CHECKING:
    import pandas as pd

CURVES = ("train_loss", "lr", "val_loss", "val_acc")
RESULTS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
ENDED = (*records.ENDED, "interrupted")
# No message repeats the passwords of these variables.
_ADDRESSES = (passwords.TRACKING, "MLFLOW_TRACKING_URI")
_CREDENTIALS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class News:
    """The part of a run's records that its tracker has not seen.

    Attributes:
        run: its number.
        name: the user's name for it, ``17 lr=0.183``.
        folder: the run's folder.
        first: whether this process has not reported the run before; then points holds all of them.
        hyperparameters: lr, seed, epochs, batch_size, the choice of each group and its settings.
        points: rows of (step, {curve: value}), ascending.
        step: the last recorded one.
        state: of summary.json; in ENDED where the run is over.
        results: its final numbers, as far as it has any, once the run is over.
    """

    run: int
    name: str
    folder: Path
    first: bool
    hyperparameters: Mapping[str, Any]
    points: Sequence[tuple[int, Mapping[str, float]]]
    step: int
    state: str
    results: Mapping[str, float]


class Sink(Protocol):
    """Where a tracker writes. ``tracking._target_=mypkg.Mine`` names one of your own. It is called
    with ``sweep``, the sweep's folder, and the settings of the config.
    """

    def log(self, news: News) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Follow the runs of a sweep in one process."""

    def __init__(self, sink: Sink | None, every: int = 1) -> None:
        self.sink = sink
        self.every = every
        self.seen: dict[Path, int] = {}  # the last step that was reported

    def follow(self, run: Path, label: str = "") -> None:
        """Report the new part of a run's records, at an epoch's end and when the run is over.

        Args:
            run: its folder.
            label: distinguishes the run in its sweep, ``lr=0.183 schedule=step``.
        """
        if self.sink is None:
            return
        try:
            with _silent():
                news = self._news(run, label)
                self.sink.log(news)
        except NotWritten:
            raise  # not the tracker's fault
        except Exception as error:
            self._give_up(run, error)
        else:
            self.seen[run] = max([self.seen.get(run, -1), *(step for step, _ in news.points)])

    def close(self) -> None:
        """Finish writing."""
        if self.sink is None:
            return
        try:
            with _silent():
                self.sink.close()
        except Exception as error:
            self._give_up(None, error)

    def _news(self, run: Path, label: str) -> News:
        summary = records.read_summary(run)
        state = str(summary["state"])
        first = run not in self.seen
        metrics = records.read_metrics(run)
        points = list(_points(metrics, self.seen.get(run, -1), self.every))
        known = {key: summary.get(key) for key in RESULTS}
        results = {key: value for key, value in known.items() if value is not None}
        number = int(summary.get("run", run.name))
        label = label or f"lr={summary['lr']:g}"
        return News(
            run=number,
            name=f"{number} {label}",
            folder=run,
            first=first,
            hyperparameters=_hyperparameters(run, summary),
            points=points,
            step=int(metrics["step"].to_numpy()[-1]) if len(metrics) else 0,
            state=state,
            results=results if state in ENDED else {},
        )

    def _give_up(self, run: Path | None, error: Exception) -> None:
        name = type(self.sink).__name__
        self.sink = None
        message = " ".join(str(error).split())
        for uri in (os.environ.get(name, "") for name in _ADDRESSES):
            message = passwords.without_secrets(message, uri)
        for secret in (os.environ.get(name) for name in _CREDENTIALS):
            message = message.replace(secret, "***") if secret else message
        line = f"tracking by {name} failed and is off ({type(error).__name__}: {message[:200]})"
        print(f"lrlab: {line}; the runs go on", file=sys.stderr, flush=True)
        if run is not None:
            records.log(run, line)


def check(node: Mapping[str, Any]) -> None:
    """Check the tracking group before anything starts; import no tracker.

    Args:
        node: the group's settings, resolved, as plain containers.

    Raises:
        UserError: there is no such tracker, its package is missing, or a setting cannot work.
    """
    target = node.get("_target_")
    if not target:
        for key, value in node.items():
            if key not in HYDRA_KEYS:
                raise UserError(
                    f"tracking.{key}={value}: has no effect without a tracker; choose "
                    "tracking=tensorboard or tracking=mlflow"
                )
        return
    found = _found(target)
    if (names := taken(found)) is not None:
        known = [name for name in (*names, "every") if name != "sweep"]
        check_taken("tracking", node, found, known)
    package = getattr(found, "needs", None)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"tracking={package}: needs the package {package}; pip install 'lrlab[{package}]'"
        )
    every = node.get("every", 1)
    if not is_whole(every, 1):
        raise must_be("tracking.every", every, "a whole number of steps from 1", 10)


def open(node: Mapping[str, Any], sweep: Path) -> Tracker:
    """Open the tracker of a sweep in this process.

    Args:
        node: as ``check`` takes it.
        sweep: the sweep's folder.

    Raises:
        UserError: as ``check`` does, or the tracker does not know a setting.
    """
    check(node)
    target = node.get("_target_")
    if not target:
        return Tracker(None)
    settings = {k: v for k, v in node.items() if k not in (*HYDRA_KEYS, "every")}
    if isinstance(uri := settings.get("uri"), str):
        settings["uri"] = passwords.whole_tracking(uri)
    try:
        with _silent():
            sink = _found(target)(sweep=sweep, **settings)
    except TypeError as error:
        raise UserError(f"tracking._target_={target}: {error}") from None
    return Tracker(sink, node.get("every", 1))


def _found(target: str) -> Any:
    try:
        return located(target)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"tracking._target_={target}: cannot be imported ({reason})") from None


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the packages' warnings about their internals; no user of lrlab can change those."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # levels would not do: MLflow sets its own at its import
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- reading the records --------------------------------------------------------------------------


def _points(frame: pd.DataFrame, after: int, every: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Return the curves' points after a step: one in so many, evaluations, non-finite losses."""
    for row in frame.loc[frame["step"] > after].to_dict("records"):
        step = int(row["step"])
        point: dict[str, float] = {}
        # The last row, after all updates, has neither; an lr without a finite loss is divergence.
        trained = not math.isnan(row["lr"])
        if trained and (step % every == 0 or not math.isfinite(row["train_loss"])):
            point |= {"train_loss": row["train_loss"], "lr": row["lr"]}
        point |= {key: row[key] for key in ("val_loss", "val_acc") if not math.isnan(row[key])}
        if point:
            yield step, point


def _hyperparameters(run: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    names = ("lr", "seed", "epochs", "batch_size", *schema.RECIPE)
    found = {key: summary[key] for key in names if key in summary}
    # the record may come from elsewhere, and a tracker may send what it gets anywhere
    config = trust.uncalled(OmegaConf.create(records.options(records.read_config(run))))
    for group in schema.GROUPS:
        found[group] = summary.get(group)
        node = config.get(group)
        settings = schema.flat(node, f"{group}.") if isinstance(node, Mapping) else {}
        kept = {k: v for k, v in settings.items() if k.rpartition(".")[2] not in HYDRA_KEYS}
        found |= {k: v for k, v in kept.items() if not isinstance(v, Mapping)}
    return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in found.items()}


# --- TensorBoard ----------------------------------------------------------------------------------


class TensorBoard:
    """Event files in ``<sweep>/tensorboard/<run>``: curves, and the hyperparameters' tab.

    They are written record by record: torch's SummaryWriter keeps a thread a run, takes six times
    as long, and calls a failed run a success.
    """

    needs = "tensorboard"

    def __init__(self, sweep: Path) -> None:
        self.folder = sweep / "tensorboard"
        self.files: dict[int, Path] = {}

    def log(self, news: News) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        now = time.time()
        events: list[Any] = []

        def add(step: int, values: Mapping[str, float]) -> None:
            found = Event(wall_time=now, step=step)
            for tag, value in values.items():
                found.summary.value.add(tag=tag, simple_value=value)
            events.append(found)

        if news.first:
            # The records are the truth: events of an interrupted process are written again.
            self.files[news.run] = self._fresh_file(news, now)
            events.append(Event(wall_time=now, file_version="brain.Event:2"))
            # No summary of the experiment: without one TensorBoard shows the columns of all runs.
            start = hparams_pb(news.hyperparameters, trial_id=news.name, start_time_secs=now)
            events.append(Event(wall_time=now, summary=start))
        for step, point in news.points:
            add(step, point)
        if news.state in ENDED:
            add(news.step, {f"final/{key}": value for key, value in news.results.items()})
            events.append(Event(wall_time=now, summary=_session_end(news, now)))
        with self.files[news.run].open("ab") as stream:
            writer = RecordWriter(stream)
            for event in events:
                writer.write(event.SerializeToString())
            writer.flush()

    def close(self) -> None:
        pass

    def _fresh_file(self, news: News, now: float) -> Path:
        for old in self.folder.glob(f"{news.run} *"):
            for file in old.glob("events.out.tfevents.*"):
                file.unlink()
        # TensorBoard names a run by its folder.
        folder = self.folder / news.name.replace("/", "_").replace("\\", "_")[:200]
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"events.out.tfevents.{now:.0f}.{socket.gethostname()}.{os.getpid()}"


def _session_end(news: News, now: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    failed = news.state in ("failed", "interrupted")
    status = "STATUS_FAILURE" if failed else "STATUS_SUCCESS"
    data: Any = plugin_data_pb2
    end = data.SessionEndInfo(status=status, end_time_secs=now)
    about = metadata.create_summary_metadata(data.HParamsPluginData(session_end_info=end))
    found = Summary()
    found.value.add(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    return found


def _reach(uri: str) -> None:
    """Connect to a database once, and raise its driver's error if it does not answer.

    MLflow tries 15 times, which takes over an hour.
    """
    scheme, colon, _ = uri.partition("://")
    if not colon or scheme.partition("+")[0] not in ("postgresql", "mysql", "mssql"):
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


# --- MLflow ---------------------------------------------------------------------------------------

# MLflow's names of lrlab's states; the state itself is a tag.
_STATUS = {"failed": "FAILED", "pruned": "KILLED", "interrupted": "KILLED"}
_BATCH = 1000  # metrics that MLflow takes at once; 100 parameters


class MLflow:
    """One MLflow run for each run, in one experiment.

    Args:
        uri: a tracking server, a database or a folder; None: MLFLOW_TRACKING_URI or, without it,
            MLflow's own default, ``mlflow.db`` in the current folder.
        experiment: the name of the experiment.
    """

    needs = "mlflow"

    def __init__(self, sweep: Path, uri: str | None = None, experiment: str = "lrlab") -> None:
        self.sweep = sweep
        self.uri = uri
        self.experiment = experiment
        self.client: Any = None
        self.ids: dict[int, str] = {}

    def log(self, news: News) -> None:
        from mlflow.entities import Metric, Param

        self.client = self.client or self._client()
        told: dict[str, int] = {}  # the last step of each curve that MLflow has
        params = []
        if news.first:
            self.ids[news.run], new = self._run(news)
            if new:
                params = [Param(k, str(v)[:6000]) for k, v in news.hyperparameters.items()]
            else:
                told = self._told(self.ids[news.run])
        run, now = self.ids[news.run], int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, step)
            for step, point in news.points
            for key, value in point.items()
            if step > told.get(key, -1)
        ]
        if news.state in ENDED:
            metrics += [
                Metric(f"final_{key}", float(value), now, news.step)
                for key, value in news.results.items()
            ]
        for at in range(0, len(params), 100):
            self.client.log_batch(run, params=params[at : at + 100])
        for at in range(0, len(metrics), _BATCH):
            self.client.log_batch(run, metrics=metrics[at : at + _BATCH])
        self.client.set_tag(run, "lrlab.state", news.state)
        if news.state in ENDED:
            self.client.set_terminated(run, _STATUS.get(news.state, "FINISHED"))

    def close(self) -> None:
        pass

    def _client(self) -> Any:
        # No training waits minutes for a server that is away, and no third party is informed.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        _reach(self.uri or os.environ.get("MLFLOW_TRACKING_URI", ""))
        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        self.experiment_id = (
            found.experiment_id if found else client.create_experiment(self.experiment)
        )
        return client

    def _run(self, news: News) -> tuple[str, bool]:
        """Return the MLflow run of that run, made if needed, and whether it is new."""
        where = str(news.folder.absolute())
        key = hashlib.sha256(where.encode()).hexdigest()[:16]  # MLflow's filters take no quotes
        which = f"tags.`lrlab.key` = '{key}'"
        found = self.client.search_runs([self.experiment_id], which, max_results=1)
        if found:
            self.client.set_terminated(found[0].info.run_id, "RUNNING")
            return found[0].info.run_id, False
        tags = {"key": key, "folder": where, "sweep": self.sweep.name, "run": str(news.run)}
        tags = {f"lrlab.{name}": value for name, value in tags.items()}
        name = f"{self.sweep.name}/{news.name}"
        made = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        return made.info.run_id, True

    def _told(self, run: str) -> dict[str, int]:
        histories = {key: self.client.get_metric_history(run, key) for key in CURVES}
        return {key: max((m.step for m in found), default=-1) for key, found in histories.items()}
