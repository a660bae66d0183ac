"""The house: the order of imports, and how long files, classes and lists of arguments are."""

from __future__ import annotations

import ast
from pathlib import Path

from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

ROOT = Path(__file__).parents[1]
FILES = sorted(file for name in ("lrlab", "hydra_plugins") for file in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))  # of which only the lines of a file are counted
LINES, LINES_OF_A_CLASS, ARGUMENTS, FILES_OF_A_FOLDER = 500, 300, 8, 15

# Directly in lrlab/: the verbs, and what configs and records name by path.
MODULES = {
    *("__init__", "__main__", "_version", "errors", "api"),
    *("sweep", "find", "resume", "reproduce", "analysis", "compare", "bench", "completion"),
    *("networks", "losses", "schedules", "own_data", "tracking", "not_importable"),
}
PACKAGES = {
    *("process", "config", "records", "data", "engine", "plan", "training", "study", "sweeping"),
    *("own_loop", "integrations", "probes", "range_test"),
    *("tables", "logs", "verdicts", "comparison", "plots", "report"),
}
# Whose parameters are keys of a config, or the keywords of the public API.
MANY_PARAMETERS = {"find", "table"}


def test_imports_keep_the_order() -> None:
    configure()
    kept = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)
    assert kept, "lint-imports says which import is against the order"


def test_each_part_is_short_and_in_its_place() -> None:
    assert found() == MANY_PARAMETERS


def found() -> set[str]:
    """What is too large, or directly in lrlab/ without belonging there."""
    long = [file for file in (*FILES, *TESTS) if file.read_text("utf-8").count("\n") > LINES]
    too_long = {str(file.relative_to(ROOT)) for file in long}
    for file in FILES:
        too_long |= large(ast.parse(file.read_text("utf-8")))
    folders = {file.parent for file in FILES} - {ROOT / "lrlab"}
    crowded = [each for each in folders if len(list(each.glob("*.py"))) > FILES_OF_A_FOLDER]
    here = {file.stem for file in (ROOT / "lrlab").glob("*.py")} - MODULES
    packages = {each.parent.name for each in (ROOT / "lrlab").glob("*/*.py")}
    return too_long | {each.name for each in crowded} | here | (packages - PACKAGES - MODULES)


def large(tree: ast.AST, of: str = "") -> set[str]:
    """Classes with too many lines, functions with too many named arguments."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        name = of
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{of}.{node.name}".lstrip(".")
            if isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                names |= {name} if lines > LINES_OF_A_CLASS else set()
            else:
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([each for each in given if each.arg not in ("self", "cls")])
                names |= {name} if count > ARGUMENTS else set()
        names |= large(node, name)
    return names


def test_the_check_of_sizes_sees_what_is_too_large() -> None:
    arguments = ", ".join(f"a{i}" for i in range(9))
    long = "class Long:\n" + "    x = 1\n" * 300 + f"    def f(self, {arguments}): ...\n"
    assert large(ast.parse(long)) == {"Long", "Long.f"}
    short = "class Short:\n" + "    x = 1\n" * 298 + f"    def f(self, {arguments[4:]}): ...\n"
    assert large(ast.parse(short)) == set()
