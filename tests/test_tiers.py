"""The house of the tests: three tiers, each test in one of them, and helpers apart from tests."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import tiers

from lrlab.training import pool

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent


class Item:
    """As much of a test as a tier needs."""

    path = Path(__file__)

    def __init__(self, name: str, *own: pytest.Mark, module: tuple[pytest.Mark, ...] = ()) -> None:
        self.nodeid, self.own_markers = f"test_x.py::{name}", list(own)
        self.parent = SimpleNamespace(own_markers=list(module))

    def iter_markers(self) -> list[pytest.Mark]:
        return [*self.own_markers, *self.parent.own_markers]

    def listchain(self) -> list[Any]:
        return [self.parent, self]

    def add_marker(self, name: str) -> None:
        self.own_markers.append(mark(name))


def mark(name: str, **how: Any) -> pytest.Mark:
    return getattr(pytest.mark, name)(**how).mark if how else getattr(pytest.mark, name).mark


def assigned(*items: Any) -> list[str]:
    tiers.assign(items)
    return [tiers.tier(item) for item in items]


def test_each_test_is_in_one_tier(request: pytest.FixtureRequest) -> None:
    assert all(tiers.tier(item) in tiers.TIERS for item in request.session.items)


def test_a_tests_tier_is_its_own_or_its_modules() -> None:
    unit = (mark("unit"),)
    items = Item("a", module=unit), Item("b", mark("full"), module=unit), Item("c")
    assert assigned(*items) == ["unit", "full", "default"]


def test_a_case_has_its_own_and_the_first_ones_of_a_slow_test_stay() -> None:
    case = Item("a[1]", mark("default"), mark("full"))  # of its function, of its parameters
    slow = [Item(f"b[{number}]", mark("full", after=2)) for number in range(4)]
    assert assigned(case, *slow) == ["full", "default", "default", "full", "full"]


def test_whoever_names_a_file_runs_all_of_it() -> None:
    item: Any = Item("a", mark("full"))
    assert tiers.is_left_out(item, []) and tiers.is_left_out(item, [str(HERE)])
    assert not tiers.is_left_out(item, [__file__])
    assert not tiers.is_left_out(item, [f"{__file__}::a[1-2]"])
    assert tiers.is_left_out(item, [str(HERE / "conftest.py")])
    default: Any = Item("a", mark("default"))
    assert not tiers.is_left_out(default, [])


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (lambda: subprocess.run([sys.executable, "-c", ""]), "a process"),
        (lambda: os.fork(), "a process"),
        (lambda: pool.run(None, None, "cpu", None, {}), "a training of runs"),  # type: ignore[arg-type]
    ],
)
def test_the_unit_tier_starts_no_process_and_no_sweep(begin: Any, what: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=f"{what} in the unit tier"):
        begin()


def test_no_module_imports_from_a_test_module_or_from_conftest() -> None:
    found = []
    for file in HERE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found += [(file.name, n) for n in names if n.startswith(("test_", "conftest"))]
    assert found == []


def test_conftest_has_fixtures_and_hooks_only() -> None:
    body = ast.parse((HERE / "conftest.py").read_text("utf-8")).body
    assert not [node for node in body if isinstance(node, ast.ClassDef)]
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    others = [f.name for f in functions if not f.name.startswith("pytest_")]
    decorated = {f.name: "".join(map(ast.unparse, f.decorator_list)) for f in functions}
    assert all("fixture" in decorated[name] for name in others)
