"""The import rules of docs/architecture.md, read from the source."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stablegrad
from stablegrad.agents.catalogue import ALGORITHMS

PACKAGE = Path(stablegrad.__file__).parent
DOCS = Path(__file__).parents[1] / "docs" / "architecture.md"

#: Imports against the order of the rooms, (module, room), and why each is there.
EXCEPTIONS = {
    ("stablegrad", "diagnostics"): "the names that people need first, imported when they are asked for",
    ("stablegrad.run_server", "studies"): "a process that imports what it will run, by name",
}
#: Libraries that are slow to import or that not everybody has.
LIBRARIES = {
    *("torch", "numpy", "scipy", "sklearn", "pandas", "safetensors", "tensorboard", "pytorch_optimizer"),
    *("matplotlib", "plotly", "jinja2", "rich", "tyro", "gymnasium", "envpool", "optuna", "ray", "wandb"),
    *("stable_baselines3", "imageio", "IPython"),
}
TORCH = {"torch", "numpy"}
NETWORKS, OPTIMIZERS = {"errors", "networks"}, {"errors", "hardware", "optimizers"}
DIAGNOSTICS = NETWORKS | OPTIMIZERS | {"diagnostics", "options", "text"}


def rooms() -> list[str]:
    """Modules and packages at the top, in the order in which docs/architecture.md lists them."""
    tree = DOCS.read_text(encoding="utf-8").partition("src/stablegrad/\n")[2].partition("\ntests/")[0]
    return re.findall(r"^  (\w+)(?:\.py|/)\s", tree, re.MULTILINE)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its full name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_bytes())
    return found


MODULES = modules()


def imported(tree: ast.AST, *, for_types: bool, by_name: bool) -> set[str]:
    """Modules of the package that a module imports anywhere, also within functions.

    Args:
        tree: the module.
        for_types: count imports for type checkers as well.
        by_name: count strings that are the name of a module as well.
    """
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types:
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by the full name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif by_name and isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            found.add(node.value)
    return found & MODULES.keys()


def test_every_room_has_its_place():
    there = {room_of(module) for module in MODULES} - {"stablegrad", "__main__"}
    listed = rooms()
    assert len(listed) == len(set(listed)) and set(listed) == there


def test_a_room_imports_only_rooms_above_it():
    order = ["stablegrad", *rooms(), "__main__"]
    against = set()
    for module, tree in MODULES.items():
        used = {room_of(name) for name in imported(tree, for_types=True, by_name=True)}
        against |= {(module, room) for room in used if order.index(room) > order.index(room_of(module))}
    assert against == EXCEPTIONS.keys()


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for module, tree in MODULES.items():
        names = imported(tree, for_types=False, by_name=False)
        # Importing a module runs the packages around it first.
        around = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
        own = {".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 2)}
        graph[module] = (names | around) - own
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    ("program", "rooms", "libraries"),
    [
        ("import stablegrad.text", {"text"}, set()),
        ("import stablegrad.files", {"errors", "files"}, set()),
        ("from stablegrad.training.run_folder import RunFolder", {"errors", "files", "training"}, set()),
        ("import stablegrad.pages", {"errors", "files", "pages"}, {"numpy", "plotly", "jinja2"}),
        ("import stablegrad.networks", NETWORKS, TORCH),
        ("import stablegrad.optimizers", OPTIMIZERS, TORCH),
        ("import stablegrad.diagnostics", DIAGNOSTICS, {*TORCH, "scipy"}),
        (
            "from stablegrad.diagnostics import History, Report; Report([], History()).save_html('page.html')",
            DIAGNOSTICS | {"files", "pages"},
            {*TORCH, "scipy", "plotly", "jinja2"},
        ),
    ],
    ids=["text", "files", "run folder", "pages", "networks", "optimizers", "diagnostics", "a diagnosis saved"],
)
def test_nothing_is_loaded_that_is_not_needed(program, rooms, libraries, tmp_path):
    program += "\nimport sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
    )
    loaded = result.stdout.split()
    assert {room_of(name) for name in loaded if name.startswith("stablegrad.")} <= rooms
    assert LIBRARIES.intersection(loaded) <= libraries
    if "training" in rooms:
        assert {name for name in loaded if name.startswith("stablegrad.training.")} == {
            "stablegrad.training.run_folder"
        }


def test_no_room_but_the_agents_names_an_algorithm():
    """The quickstart may, and what writes code for Stable-Baselines3 names its classes."""
    allowed = {"cli/quickstart.py", "integrations/sb3.py", "integrations/sb3_policy.py", "diagnostics/sb3_code.py"}
    names = re.compile(rf"\b({'|'.join(ALGORITHMS)})\b", re.IGNORECASE)
    for path in sorted(PACKAGE.rglob("*.*")):
        place = path.relative_to(PACKAGE).as_posix()
        if path.suffix in (".py", ".html", ".toml") and not place.startswith("agents/") and place not in allowed:
            found = names.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{place} names {found[0]}"
