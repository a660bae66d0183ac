"""What is installed works from any folder: a wheel made from the sdist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_string
from pathlib import Path

import pytest

from lrlab._version import __version__

pytest.importorskip("hatchling", reason="hatchling builds the package")

ROOT = Path(__file__).parent.parent
TINY = ("data.train_size=128", "data.val_size=100", "epochs=1", "plots=false", "threads=1")

pytestmark = pytest.mark.full


def python(*arguments: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build(hook: str, source: Path, target: Path) -> Path:
    """Call one of hatchling's build hooks, as pip and build do."""
    code = f"from hatchling import build; print(build.{hook}({str(target)!r}))"
    done = python("-c", code, cwd=source)
    return target / done.stdout.strip().splitlines()[-1]


def install(wheel: Path, target: Path) -> None:
    """Without an index: the dependencies are those of this environment."""
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--target"]
    python("-m", "pip", "install", *options, str(target), str(wheel), cwd=target.parent)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    sdist = build("build_sdist", ROOT, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    for paper in ("LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"):
        assert (source / paper).is_file()
    return build("build_wheel", source, folder)


def test_the_wheel_holds_all_that_is_needed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    for folder, inside in (
        ("conf", "lrlab/conf"),
        ("experiments", "lrlab/experiments"),
        ("lrlab", "lrlab"),
        ("hydra_plugins", "hydra_plugins"),
    ):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"{inside}/{file.relative_to(ROOT / folder).as_posix()}" in held
    assert "lrlab/py.typed" in held and "lrlab/conf/config.yaml" in held
    assert sum(name.startswith("lrlab/data/mnist/") and name.endswith(".gz") for name in held) == 4
    assert "hydra_plugins/__init__.py" not in held  # it is a namespace package
    assert {name.split("/")[0] for name in held} == {"lrlab", "hydra_plugins"}


# Without site the .pth files of this environment, in which lrlab may be installed, are not read.
RUN = """
import json, runpy, site, sys
site.addsitedir(sys.argv[1])
sys.path.append(sys.argv[2])
import lrlab
assert lrlab.__file__ == sys.argv[3], lrlab.__file__
sys.argv[:] = sys.argv[4:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        told = archive.read(f"{info}/METADATA").decode()
        assert "lrlab = lrlab.__main__:main" in archive.read(f"{info}/entry_points.txt").decode()
        for file in ("LICENSE", "lrlab/data/mnist/README.md"):
            assert archive.read(f"{info}/licenses/{file}") == (ROOT / file).read_bytes()
    head = message_from_string(told)
    assert head["License-Expression"] == "MIT AND CC-BY-SA-3.0"
    assert head["Requires-Python"] == ">=3.11" and head["Keywords"]
    assert "Typing :: Typed" in head.get_all("Classifier", [])


def check_installed(site: Path, package: Path, cwd: Path) -> Callable[..., str]:
    """The help and a sweep, which needs plugins, configs and images, in a folder of its own."""
    cwd.mkdir()

    def run(module: str, *arguments: str) -> str:
        start = ["-S", "-c", RUN, str(site), sysconfig.get_path("purelib")]
        package_file = str(package / "__init__.py")
        return python(*start, package_file, module, *arguments, cwd=cwd).stdout

    assert "lr=0.001,0.1,1.0" in run("lrlab.sweep", "--help")
    run("lrlab.sweep", *TINY, "lr=0.01,0.1", "schedule=step", "name=x")
    for number in (0, 1):
        summary = json.loads((cwd / f"outputs/x/{number}/summary.json").read_text("utf-8"))
        assert summary["state"] == "finished" and summary["steps"] == 2
    # one study with a trial a run: the sweeper is lrlab's, not Hydra's basic one
    assert (cwd / "outputs/x/study.journal").is_file()
    return run


def test_the_installed_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(wheel, site)
    run = check_installed(site, site / "lrlab", tmp_path / "anywhere")
    assert "identical: 2 of 2 steps, bitwise" in run("lrlab.reproduce", "outputs/x/1")
    told = python(str(site / "bin" / "lrlab"), "--version", cwd=tmp_path, path=str(site))
    assert told.stdout == f"lrlab {__version__}\n"
