"""The sweeps in tests/kept_sweeps: what an earlier lrlab left, which later ones must still take.

    python tests/make_kept_sweeps.py         trains all of them anew, with this checkout
    python tests/make_kept_sweeps.py words   writes words.json alone: what is said of them today

No test runs this file. The kept sweeps are those of commit 6e636ce, before lrlab's modules moved
into packages. To train them anew would replace the records of that lrlab by today's, so do it only
where records may change, and say why in the commit. After a change of wording alone, run ``words``.

What lies there:

    project/            where all commands were typed, with points.csv and code_of_kept.py
      outputs/grid        two seeds of three lrs, one of which diverges; diagnostics, the landscape
      outputs/search      an interval with a pruner and a seed, TPE
      outputs/cmaes       a search whose study holds the state of CMA-ES
      outputs/stopped     SIGTERM in an epoch: ended, interrupted and waiting runs, optimizer states
      outputs/killed      SIGKILL in an epoch: a network with a state in Python, a dead claim
      outputs/own         a network, a loss and a schedule of code_of_kept.py
      outputs/arrays      from Python, with the arrays as data-<hash>.pt
      outputs/find        a range test
    went_on/            curves of what comes when they go on: of stopped and killed the curves of
                        sweeps that nobody interrupted, of the others those of the new runs
    made_on.json        what decides the bits of a product where they were made
    words.json          answers and evidence in words

Machine, folder and kernel are replaced: the records say that all was typed in /kept, on the host
kept. Figures and reports are left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).resolve().parent / "kept_sweeps"

# Code of a user, which records of sweeps name by its path.
CODE = (KEPT / "project" / "code_of_kept.py").read_text("utf-8")

FEW = ("threads=1", "plots=false")
CSV = ("data=csv", "data.path=points.csv", "data.label=kind", "data.val_size=32", "batch_size=16")
CSV += ("network.hidden=[4]",)  # eight steps an epoch
TYPED: dict[str, tuple[str, ...]] = {
    "grid": (
        *("lr=0.01,0.1,1e9", "seed=0,1", "schedule=cosine", "epochs=2", "threads=1"),
        *("data.train_size=640", "data.val_size=200", "network.hidden=[8]", "diagnostics=full"),
    ),
    "search": (
        *(*CSV, *FEW, "lr=1e-3..3", "n_trials=8", "pruner=asha", "pruner.reduction_factor=2"),
        *("sampler.n_startup_trials=3", "seed=3", "epochs=4", "lanes=2"),
    ),
    "cmaes": (
        *(*CSV, *FEW, "lr=1e-3..1", "optimizer.momentum=0.1..0.9", "sampler=cmaes"),
        *("sampler.n_startup_trials=1", "n_trials=6", "epochs=1", "diagnostics=off"),
    ),
    "stopped": (
        *(*CSV, *FEW, "lr=0.02,0.1,0.3", "optimizer=momentum,adam", "schedule=plateau"),
        *("epochs=5", "lanes=2", "checkpoint_every=1", "save_model=true", "diagnostics=full"),
    ),
    "killed": (
        *(*CSV[:-1], *FEW, "network=custom", "network._target_=code_of_kept.Counting"),
        *("optimizer._target_=torch.optim.NAdam", "lr=0.01,0.03,0.1", "epochs=4", "lanes=2"),
        *("checkpoint_every=1", "diagnostics=off"),
    ),
    "own": (
        *(*CSV[:-1], *FEW, "network=custom", "network._target_=code_of_kept.Net"),
        *("+network.width=3,5", "loss._target_=code_of_kept.smoothed"),
        *("schedule._target_=code_of_kept.Halved", "+schedule.after=8"),
        *("lr=0.03,0.3", "epochs=2", "save_model=true"),
    ),
}
ARRAYS = """
import lrlab, torch
draw = torch.Generator().manual_seed(1)
x = torch.randn(96, 3, generator=draw)
y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(96, generator=draw)
lrlab.run_sweep(
    data={"x": x, "y": y, "val_size": 24, "standardise_targets": True}, loss="mse",
    network__hidden=(4,), lr=[0.01, 0.1], seed=[0, 1], batch_size=8, epochs=2, threads=1,
    plots=False, diagnostics="full", name="arrays",
)
"""
FIND = ("data.train_size=640", "data.val_size=200", "network.hidden=[8]", "threads=1")
FIND += ("lr=1e-2..10", "points=4", "steps=60", "name=find")
# What a sweep goes on with, besides ``outputs/<name>``; of the interrupted ones nothing.
MORE: dict[str, tuple[str, ...]] = {
    "grid": ("lr=0.01,0.03,0.1,1e9",),
    "search": ("n_trials=10",),
    "cmaes": ("n_trials=8",),
    "stopped": (),
    "killed": ("trust=true",),
    "own": ("trust=true", "lr=0.03,0.1,0.3"),
    "arrays": ("lr=0.01,0.03,0.1",),
}
# So many seconds after a file of this name is opened to be written for the n-th time, the process
# gets a signal.
At = tuple[str, int, float, str]
SIGNALS: dict[str, At] = {
    "stopped": ("checkpoint.pt", 11, 0.02, "SIGTERM"),
    "killed": ("metrics.csv", 16, 0.0, "SIGKILL"),
}
# What decides the bits of a product, as in tests/golden.
DECIDES = ("torch", "device", "device_name", "cpu_capability", "mkl_cbwr", "byteorder")

CHILD = """
import json, os, signal, socket, sys, threading
socket.gethostname = lambda: "kept"
code, words, at = json.loads(sys.argv[1])
count = 0

def see(event, arguments):
    global count
    if at and event == "open" and isinstance(arguments[2], int):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and at[0] in os.path.basename(str(arguments[0])):
            count += 1
            if count == at[1]:
                kill = lambda: os.kill(os.getpid(), getattr(signal, at[3]))
                threading.Timer(at[2], kill).start() if at[2] else kill()

sys.addaudithook(see)
sys.argv = ["lrlab", *words]
exec(code)
"""
VERB = "from lrlab.__main__ import main; main()"


def child(folder: Path, words: Sequence[str], at: At | None = None, code: str = VERB) -> int:
    """Run a verb of lrlab, or other Python, in a process of its own; its exit code."""
    told = json.dumps([code, list(words), at])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", CHILD, told], cwd=folder, env=environment)
    return done.returncode


def write_project(folder: Path) -> None:
    """The files that the commands need."""
    import numpy as np

    folder.mkdir()
    (folder / "code_of_kept.py").write_text(CODE, "utf-8")
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 3, 160)
    x = draw.normal(size=(160, 2)) + 1.5 * np.stack([kinds == 1, kinds == 2], 1)
    rows = [f"{a:.3f},{b:.3f},{'abc'[kind]}" for (a, b), kind in zip(x, kinds, strict=True)]
    (folder / "points.csv").write_text("\n".join(["width,height,kind", *rows, ""]), "utf-8")


def train(folder: Path) -> None:
    """All sweeps, in a folder that holds the project's files."""
    for name, typed in TYPED.items():
        code = child(folder, ["sweep", *typed, f"name={name}"], SIGNALS.get(name))
        assert code == {"stopped": 143, "killed": -9}.get(name, 0), (name, code)
    assert child(folder, [], code=ARRAYS) == 0
    assert child(folder, ["find", *FIND]) == 0


def neutral(project: Path) -> None:
    """Leave out figures and reports, and what says on which machine and where all was made."""
    for file in list(project.rglob("*")):
        if file.suffix in (".html", ".lock", ".png"):
            file.unlink()
    for folder in project.glob("outputs/*/plots"):
        folder.rmdir()
    for file in sorted(each for each in project.rglob("*") if each.is_file()):
        if file.suffix == ".pt":
            continue
        text = file.read_text("utf-8")
        text = text.replace(str(project), "/kept").replace(str(ROOT), "/lrlab")
        text = re.sub(r'"host":"kept [^"]*"', '"host":"kept"', text)
        text = re.sub(r'("platform": )"[^"]*"', r'\1"Linux"', text)
        file.write_text(text, "utf-8")


def went_on(project: Path, folder: Path) -> None:
    """The curves of sweeps that go on, by run number, in a copy of the project."""
    for name, more in MORE.items():
        to = folder / name
        if name in SIGNALS:  # the truth is a sweep that nobody interrupted
            write_project(again := to.parent / f"{name}_project")
            assert child(again, ["sweep", *TYPED[name], f"name={name}"]) == 0
        else:
            again = Path(shutil.copytree(project, to.parent / f"{name}_project"))
            assert child(again, ["resume", f"outputs/{name}", *more]) == 0
        before = project / "outputs" / name
        for run in sorted(each for each in (again / "outputs" / name).iterdir() if each.is_dir()):
            if name in SIGNALS or (run.name.isdecimal() and not (before / run.name).is_dir()):
                for file in run.glob("*.csv"):
                    (to / run.name).mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, to / run.name)
        shutil.rmtree(again)


def words(project: Path) -> dict[str, dict[str, object]]:
    """What is said of each sweep: its answer, and of each run the outcome and the evidence."""
    import lrlab

    found: dict[str, dict[str, object]] = {}
    for name in MORE:
        sweep = lrlab.load(project / "outputs" / name)
        found[name] = {
            "best_lr": [each.best_lr for each in sweep.answer.answers],
            "outcome": [str(each) for each in sweep.verdicts["outcome"]],
            "answer": str(sweep.answer).splitlines(),
            "evidence": [str(each) for each in sweep.verdicts["evidence"]],
        }
    return found


def write_words(project: Path) -> None:
    text = json.dumps(words(project), indent=1, ensure_ascii=False)
    (KEPT / "words.json").write_text(text + "\n", "utf-8")


def main() -> None:
    if sys.argv[1:] == ["words"]:
        write_words(KEPT / "project")
        return
    shutil.rmtree(KEPT, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary).resolve() / "project"
        write_project(project)
        train(project)
        neutral(project)
        went_on(project, KEPT / "went_on")
        shutil.copytree(project, KEPT / "project")
    summary = json.loads((KEPT / "project/outputs/grid/0/summary.json").read_text("utf-8"))
    made_on = {name: summary["environment"][name] for name in DECIDES}
    (KEPT / "made_on.json").write_text(json.dumps(made_on, indent=1) + "\n", "utf-8")
    write_words(KEPT / "project")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
