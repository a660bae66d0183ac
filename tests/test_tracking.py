"""Trackers, read back with the libraries' own readers."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import sweep as run_sweep
from helpers.recorded import RESULTS, Recorded

from lrlab import records, tracking
from lrlab.errors import UserError

TENSORBOARD = {"_target_": "lrlab.tracking.TensorBoard", "every": 1}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "my sweep"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)


# --- TensorBoard ----------------------------------------------------------------------------------


def read_board(sweep: Path) -> dict[str, Any]:
    """Run name to TensorBoard's own reader of it."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    found = EventMultiplexer().AddRunsFromDirectory(str(sweep / "tensorboard")).Reload()
    return {name: found.GetAccumulator(name) for name in found.Runs()}


def curve(reader: Any, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in reader.Scalars(tag)]


def test_tensorboard_has_each_curve_as_recorded(sweep: Path) -> None:
    run = Recorded(sweep)
    tracker = tracking.open(TENSORBOARD, sweep)
    run.epoch(0, 1.0)
    tracker.follow(run.folder, "lr=0.183 schedule=step")
    (reader,) = read_board(sweep).values()
    assert curve(reader, "train_loss") == [(step, 1 + step / 64) for step in range(4)]
    assert curve(reader, "val_loss") == [(0, 2.0)]
    run.epoch(1, 0.5)
    tracker.follow(run.folder, "lr=0.183 schedule=step")
    run.end()
    tracker.follow(run.folder, "lr=0.183 schedule=step")
    tracker.close()
    ((name, reader),) = read_board(sweep).items()
    assert name == "17 lr=0.183 schedule=step"
    assert [step for step, _ in curve(reader, "train_loss")] == list(range(8))
    assert [step for step, _ in curve(reader, "lr")] == list(range(8))
    assert curve(reader, "val_loss") == [(0, 2.0), (4, 1.0), (8, 0.5)]
    assert curve(reader, "val_acc") == [(0, 0.5), (4, 0.5), (8, 0.75)]
    assert curve(reader, "final/test_loss") == [(8, 0.375)]
    assert curve(reader, "lr")[0][1] == pytest.approx(0.183)


def test_tensorboard_has_the_hyperparameters_of_the_run(sweep: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    run = Recorded(sweep)
    run.epoch(0)
    run.end(4)
    tracking.open(TENSORBOARD, sweep).follow(run.folder)
    ((name, reader),) = read_board(sweep).items()
    assert name == "17 lr=0.183"
    content = reader.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    found = {key: getattr(v, v.WhichOneof("kind")) for key, v in start.hparams.items()}
    assert found == {
        "lr": 0.183,
        "seed": 3,
        "epochs": 2,
        "batch_size": 64,
        "data": "mnist",
        "data.dataset": "MNIST",
        "data.root": "None",
        "network": "mlp",
        "network.hidden": "[64, 32]",
        "network.bias": True,
        "loss": "nll",
        "optimizer": "momentum",
        "optimizer.momentum": 0.9,
        "optimizer.lr": 0.183,
        "schedule": "fixed",
    }
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.status == 1, "success"


def test_tensorboards_own_table_of_hyperparameters_joins_runs_with_other_settings(
    sweep: Path,
) -> None:
    """What its HParams tab shows: a column for each setting that any run has."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import (
        api_pb2,
        backend_context,
        get_experiment,
        list_session_groups,
    )

    tracker = tracking.open(TENSORBOARD, sweep)
    for number in (2, 17):
        run = Recorded(sweep, number)
        if number == 2:
            text = records.read_config(run.folder).replace("momentum: 0.9", "nesterov: true")
            records.write_whole(run.folder / ".hydra" / "config.yaml", text)
        run.epoch(0)
        run.end(4)
        tracker.follow(run.folder)
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(sweep / "tensorboard")).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(sweep))
    context = backend_context.Context(
        base_plugin.TBContext(data_provider=provider, multiplexer=multiplexer)
    )
    request = RequestContext()
    asked = api_pb2.GetExperimentRequest(experiment_name="", include_metrics=True)
    experiment = get_experiment.Handler(request, context, "", asked).run()
    columns = {info.name for info in experiment.hparam_infos}
    assert {"lr", "optimizer.momentum", "optimizer.nesterov"} <= columns
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[1, 2, 3], include_metrics=True
    )
    answer = list_session_groups.Handler(request, context, "", wanted).run()
    assert {group.name for group in answer.session_groups} == {"2 lr=0.183", "17 lr=0.183"}
    values = {m.name.tag: m.value for m in answer.session_groups[0].metric_values}
    assert values["final/test_loss"] == 0.375


def test_a_resumed_run_has_each_point_once(sweep: Path) -> None:
    """Another process goes on from a checkpoint, behind which the first had told of more."""
    run = Recorded(sweep)
    run.epoch(0)
    run.epoch(1, 0.5)
    tracking.open(TENSORBOARD, sweep).follow(run.folder, "lr=0.183")
    records.start_metrics(run.folder)
    run.epoch(0)
    run.epoch(1, 0.5)
    run.end()
    # The sweep may have been extended in between, so that more sets the runs apart.
    tracking.open(TENSORBOARD, sweep).follow(run.folder, "lr=0.183 seed=3")
    ((name, reader),) = read_board(sweep).items()
    assert name == "17 lr=0.183 seed=3"
    assert [step for step, _ in curve(reader, "train_loss")] == list(range(8))
    assert [step for step, _ in curve(reader, "val_loss")] == [0, 4, 8]


def test_a_run_that_starts_anew_in_the_same_process_has_each_point_once(sweep: Path) -> None:
    """As after memory ran out: the same bits come again."""
    run = Recorded(sweep)
    tracker = tracking.open(TENSORBOARD, sweep)
    run.epoch(0)
    tracker.follow(run.folder)
    records.start_metrics(run.folder)
    run.epoch(0)
    tracker.follow(run.folder)
    run.epoch(1)
    tracker.follow(run.folder)
    (reader,) = read_board(sweep).values()
    assert [step for step, _ in curve(reader, "train_loss")] == list(range(8))


def test_every_thins_the_steps_but_keeps_evaluations_and_the_divergence(sweep: Path) -> None:
    run = Recorded(sweep)
    tracker = tracking.open({**TENSORBOARD, "every": 3}, sweep)
    run.epoch(0)
    run.epoch(1)
    run.rows([8], 2, [math.nan])
    run.state("diverged")
    tracker.follow(run.folder)
    (reader,) = read_board(sweep).values()
    steps = curve(reader, "train_loss")
    assert [step for step, _ in steps] == [0, 3, 6, 8] and math.isnan(steps[-1][1])
    assert [step for step, _ in curve(reader, "val_loss")] == [0, 4]
    assert not any(tag.startswith("final") for tag in reader.Tags()["scalars"])


def test_names_that_no_folder_can_have(sweep: Path) -> None:
    run = Recorded(sweep)
    run.epoch(0)
    label = "network._target_=a/b\\c " + "long " * 100
    tracking.open(TENSORBOARD, sweep).follow(run.folder, label)
    (name,) = read_board(sweep)
    assert name.startswith("17 network._target_=a_b_c long")


# --- MLflow ---------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[dict[str, Any]]:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    yield {"_target_": "lrlab.tracking.MLflow", "uri": uri, "experiment": "lab", "every": 1}


def read_mlflow(node: dict[str, Any]) -> tuple[Any, list[Any]]:
    """MLflow's own client, and all runs of the experiment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's of SQLAlchemy
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=node["uri"])
        experiment = client.get_experiment_by_name(node["experiment"])
        return client, list(client.search_runs([experiment.experiment_id]))


@pytest.mark.full
def test_mlflow_has_curves_parameters_and_results(sweep: Path, mlflow: dict[str, Any]) -> None:
    run, other = Recorded(sweep), Recorded(sweep, 18)
    tracker = tracking.open(mlflow, sweep)
    run.epoch(0)
    tracker.follow(run.folder, "lr=0.183 schedule=step")
    _, (found,) = read_mlflow(mlflow)
    assert found.info.status == "RUNNING"
    run.epoch(1, 0.5)
    run.end()
    tracker.follow(run.folder, "lr=0.183 schedule=step")
    other.epoch(0)
    other.rows([4], 1, [math.inf])
    other.state("pruned")
    tracker.follow(other.folder)
    tracker.close()

    client, runs = read_mlflow(mlflow)
    found = {one.info.run_name: one for one in runs}
    assert set(found) == {"my sweep/17 lr=0.183 schedule=step", "my sweep/18 lr=0.183"}
    one = found["my sweep/17 lr=0.183 schedule=step"]
    history = client.get_metric_history(one.info.run_id, "train_loss")
    expected = [(step, 1 + step / 64 if step % 4 else 1.0) for step in range(4)]
    assert [(m.step, m.value) for m in history][:4] == expected
    assert [m.step for m in history] == list(range(8))
    history = client.get_metric_history(one.info.run_id, "val_loss")
    assert [(m.step, m.value) for m in history] == [(0, 2.0), (4, 1.0), (8, 0.5)]
    assert one.data.metrics["final_test_loss"] == 0.375
    params = one.data.params
    assert params["lr"] == "0.183" and params["optimizer.momentum"] == "0.9"
    assert params["network"] == "mlp" and params["network.hidden"] == "[64, 32]"
    assert one.info.status == "FINISHED" and one.data.tags["lrlab.state"] == "finished"
    assert one.data.tags["lrlab.folder"] == str(run.folder)
    pruned = found["my sweep/18 lr=0.183"]
    assert pruned.info.status == "KILLED" and pruned.data.tags["lrlab.state"] == "pruned"
    assert "final_test_loss" not in pruned.data.metrics

    # Resumed by another process: the same MLflow run, each point once.
    records.start_metrics(other.folder)
    other.epoch(0)
    other.epoch(1)
    other.state("finished", **RESULTS)
    tracking.open(mlflow, sweep).follow(other.folder, "lr=0.183 seed=3")
    client, runs = read_mlflow(mlflow)
    (again,) = [one for one in runs if one.data.tags["lrlab.run"] == "18"]
    assert len(runs) == 2 and again.info.run_id == pruned.info.run_id
    history = client.get_metric_history(again.info.run_id, "val_loss")
    assert [m.step for m in history] == [0, 4]
    assert again.info.status == "FINISHED"


@pytest.mark.full
def test_mlflow_tells_nothing_on_the_terminal(sweep: Path, mlflow: dict[str, Any]) -> None:
    """In a process of its own, for it says most where it is imported and makes its database."""
    run = Recorded(sweep)
    run.epoch(0)
    run.end(4)
    code = (
        "from pathlib import Path\nfrom lrlab import tracking\n"
        f"tracker = tracking.open({mlflow!r}, Path({str(sweep)!r}))\n"
        f"tracker.follow(Path({str(run.folder)!r}))\ntracker.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""
    assert len(read_mlflow(mlflow)[1]) == 1
    assert sorted(path.name for path in Path.cwd().glob("ml*")) == []


# --- where something is wrong ---------------------------------------------------------------------


class Broken:
    def __init__(self, sweep: Path, after: int = 0) -> None:
        self.left = after

    def log(self, news: tracking.News) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("no such\nserver")

    def close(self) -> None:
        raise ConnectionError("still away")


def test_a_tracker_that_fails_says_so_once_and_is_off(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [Recorded(sweep, number) for number in range(3)]
    tracker = tracking.open({"_target_": "test_tracking.Broken", "after": 1}, sweep)
    for run in runs:
        run.epoch(0)
        tracker.follow(run.folder)
    tracker.close()
    said = capsys.readouterr()
    line = "tracking by Broken failed and is off (ConnectionError: no such server)"
    assert said.err == f"lrlab: {line}; the runs go on\n" and said.out == ""
    logs = [(run.folder / "run.log") for run in runs]
    assert [log.exists() for log in logs] == [False, True, False]
    assert logs[1].read_text().rstrip().endswith(line)


def test_a_tracker_that_fails_at_its_end_says_so(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.open({"_target_": "test_tracking.Broken", "after": 9}, sweep).close()
    assert "is off (ConnectionError: still away)" in capsys.readouterr().err


@pytest.mark.full
def test_a_server_that_does_not_answer_costs_seconds_not_minutes(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Recorded(sweep)
    run.epoch(0)
    node = {"_target_": "lrlab.tracking.MLflow", "uri": "http://127.0.0.1:9", "every": 1}
    tracking.open(node, sweep).follow(run.folder)
    assert "tracking by MLflow failed and is off" in capsys.readouterr().err
    assert int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == 1


def test_without_tracking_nothing_is_imported_or_written(sweep: Path) -> None:
    run = Recorded(sweep)
    before = sorted(run.folder.parent.rglob("*"))
    tracker = tracking.open({"_target_": None}, sweep)
    tracker.follow(run.folder)
    tracker.close()
    assert sorted(run.folder.parent.rglob("*")) == before
    code = (
        "import sys, lrlab.tracking; print({'torch', 'tensorboard', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("name", "target"), [("tensorboard", "TensorBoard"), ("mlflow", "MLflow")])
def test_a_missing_package_is_said_with_what_installs_it(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError) as caught:
        tracking.check({"_target_": f"lrlab.tracking.{target}", "every": 10})
    expected = f"tracking={name}: needs the package {name}; pip install 'lrlab[{name}]'"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"_target_": "no.such.Thing"}, "tracking._target_=no.such.Thing: cannot be imported"),
        ({**TENSORBOARD, "every": 0}, "tracking.every=0: must be a whole number"),
        ({**TENSORBOARD, "every": 2.5}, "tracking.every=2.5: must be a whole number"),
        ({**TENSORBOARD, "evry": 1}, "tracking.evry=1: TensorBoard has no such option"),
    ],
)
def test_settings_that_cannot_work(node: dict[str, Any], line: str, sweep: Path) -> None:
    with pytest.raises(UserError, match=line):
        tracking.open(node, sweep)


# --- a whole sweep --------------------------------------------------------------------------------


def test_a_sweep_is_tracked_from_the_command_line(tmp_path: Path) -> None:
    ended = run_sweep(
        "tracking=tensorboard", "tracking.every=1", "lr=0.1,0.3", "name=here", cwd=tmp_path
    )
    assert ended.code == 0 and ended.err == "", ended.err
    folder = tmp_path / "outputs" / "here"
    found = read_board(folder)
    assert {name.split()[0] for name in found} == {"0", "1"}
    for name, reader in found.items():
        metrics = records.read_metrics(folder / name.split()[0])
        steps = metrics[metrics["lr"].notna()]
        assert [step for step, _ in curve(reader, "train_loss")] == steps["step"].tolist()
        values = [value for _, value in curve(reader, "train_loss")]
        assert values == pytest.approx(steps["train_loss"].tolist(), rel=1e-6)
        evaluated = metrics[metrics["val_loss"].notna()]
        assert [step for step, _ in curve(reader, "val_loss")] == evaluated["step"].tolist()
        summary = records.read_summary(folder / name.split()[0])
        assert curve(reader, "final/test_acc")[0][1] == pytest.approx(summary["test_acc"])


@pytest.mark.full
def test_a_tracker_that_fails_harms_no_run(tmp_path: Path) -> None:
    broken = ("tracking=tensorboard", "tracking._target_=test_tracking.Broken")
    lrs = ("lr=0.1,0.3", "~tracking.every")
    ended = run_sweep(*broken, *lrs, "name=here", cwd=tmp_path)
    plain = run_sweep("lr=0.1,0.3", "name=plain", cwd=tmp_path)
    assert ended.code == plain.code == 0
    assert ended.err.count("tracking by Broken failed and is off") == 1
    outputs = tmp_path / "outputs"
    for run in "01":
        metrics = [
            (outputs / name / run / "metrics.csv").read_bytes() for name in ("here", "plain")
        ]
        assert metrics[0] == metrics[1]
        assert records.read_summary(outputs / "here" / run)["state"] == "finished"


def test_a_missing_package_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = tracking.importlib.util.find_spec

    def gone(name: str, *rest: Any) -> Any:
        return None if name == "tensorboard" else find(name, *rest)

    monkeypatch.setattr(tracking.importlib.util, "find_spec", gone)
    ended = run_sweep("tracking=tensorboard", "lr=0.1,0.3", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err == (
        "lrlab: tracking=tensorboard: needs the package tensorboard; "
        "pip install 'lrlab[tensorboard]'\n"
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.full
def test_optuna_dashboard_serves_the_journal_of_a_sweep(tmp_path: Path) -> None:
    """The command of the README, asked over its API."""
    assert run_sweep("lr=0.1,0.3", "schedule=fixed,step", "name=here", cwd=tmp_path).code == 0
    journal = tmp_path / "outputs" / "here" / "study.journal"
    before = journal.read_bytes()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).parent / "optuna-dashboard"
    command = [str(program), "outputs/here/study.journal", "--port", str(port), "--quiet"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as served:
        try:
            (study,) = answer(served, port, "studies")["study_summaries"]
            assert study["study_name"] == "here" and study["directions"] == ["minimize"]
            trials = answer(served, port, f"studies/{study['study_id']}")["trials"]
        finally:
            served.terminate()
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert {trial["state"] for trial in trials} == {"Complete"}
    for trial in trials:
        params = {p["name"]: p["param_external_value"] for p in trial["params"]}
        summary = records.read_summary(journal.parent / str(trial["number"]))
        assert float(params["lr"]) == summary["lr"]
        # A grid of names can grow, an Optuna category cannot: they stand in the attributes.
        attributes = {one["key"]: one["value"] for one in trial["user_attrs"]}
        assert summary["schedule"] in json.dumps([params, attributes])
        assert trial["values"] == [summary["val_loss"]]
    assert journal.read_bytes() == before, "looking on writes nothing"


def answer(served: subprocess.Popen[str], port: int, path: str) -> dict[str, Any]:
    """What its API says, as soon as it answers."""
    while served.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}") as reply:
                return json.load(reply)
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(served.communicate()[1])
