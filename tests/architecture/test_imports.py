"""The house's order, read from the source: imports point downward only, those for typing too.

docs/architecture.md draws the rooms; the order stands here.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from configs.load import load_config, presets

ROOT = Path(__file__).parents[2]
FOLDERS = ("configs", "store", "stages", "pipeline")
ROOMS: tuple[tuple[str, ...], ...] = (
    ("configs",),
    ("store.disk",),
    ("store.artifacts",),
    ("store.runs",),
    ("store.queries",),
    ("stages.runtime", "stages.losses", "stages.problem_sources", "stages.diagnostics"),
    ("stages.evaluators", "stages.models"),
    ("stages.engines", "stages.learners"),
    ("stages.base",),
    ("stages.episodes",),
    ("stages.training",),
    ("stages.mismatch",),
    ("stages",),
    ("pipeline.formatting",),
    ("pipeline.steps",),
    ("pipeline.rounds",),
    ("pipeline.execution", "pipeline.trackers"),
    ("pipeline.flows",),
    ("pipeline.commands",),
    ("pipeline.views", "pipeline.deployments"),
    ("cli",),
    ("c3",),
)
"""From the ground up. A file imports from its own room and from rooms before it; rooms of one line do not know each other."""

SHARED_IN_A_FAMILY = ("protocol", "identity", "adapters", "quoting", "overlap", "scoring", "value_head")
"""Names of modules that the members of a family share."""
LIBRARY_HOMES = {
    "duckdb": ("store.", "c3"),
    "pyarrow": ("store.",),
    "prefect": ("pipeline.flows.", "pipeline.deployments"),
    "prefect_dask": ("pipeline.flows.task_runners",),
    "prefect_ray": ("pipeline.flows.task_runners",),
    "httpx": ("stages.engines.vllm_server.http_client",),
    "tenacity": ("stages.engines.vllm_server.servers",),
    "vllm": ("stages.engines.vllm.",),
    "torch": (
        "stages.engines.",
        "stages.learners.",
        "stages.losses.",
        "stages.models.",
        "stages.runtime.",
        "stages.training.",
    ),
    "scipy": ("stages.diagnostics.",),
    "sklearn": ("stages.learners.value_head",),
    "transformers": ("stages.engines.", "stages.learners.", "stages.models.", "stages.runtime."),
    "accelerate": ("stages.training.",),
    "peft": ("stages.engines.", "stages.learners.", "stages.models."),
    "tensorboard": ("pipeline.trackers.tensorboard",),
    "wandb": ("pipeline.trackers.wandb",),
    "mlflow": ("pipeline.trackers.mlflow",),
    "typer": ("cli",),
}


@cache
def _sources() -> dict[str, ast.Module]:
    """Module name -> syntax tree, of everything but the tests."""
    files = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    return {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(module: str) -> set[str]:
    """Modules it imports anywhere: in functions too, and those that only a type checker imports."""
    found: set[str] = set()
    for node in ast.walk(_sources()[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = names & _sources().keys()
            found |= modules or {str(node.module)}
    return found


def _rank(module: str) -> int | None:
    """The place of a module's room in the order; None when it is none of ours."""
    best: tuple[int, int] | None = None
    for rank, rooms in enumerate(ROOMS):
        for room in rooms:
            if module == room or module.startswith(f"{room}."):
                best = max(best or (-1, -1), (len(room), rank))
    return best[1] if best else None


def _room(module: str) -> str | None:
    rooms = [room for line in ROOMS for room in line if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def _arrows() -> list[tuple[str, str]]:
    return [(module, found) for module in _sources() for found in sorted(_imports(module)) if found != module]


def test_every_module_is_in_a_room() -> None:
    assert [module for module in _sources() if _rank(module) is None and module not in ("store", "pipeline")] == []


def test_imports_go_downward_only_those_for_typing_too() -> None:
    upward = []
    for module, found in _arrows():
        here, there = _rank(module), _rank(found)
        if here is not None and there is not None and _room(module) != _room(found) and there >= here:
            upward.append((module, found))
    assert upward == []


def test_no_module_is_imported_in_a_circle() -> None:
    # imports inside functions and those for typing count too: a circle that is only put off is still a circle
    ours = _sources().keys()
    graph = {module: {found for found in _imports(module) if found in ours and found != module} for module in ours}
    assert set(TopologicalSorter(graph).static_order()) == set(ours)


def _declares_a_stage(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Stage"
        for node in ast.walk(tree)
    )


def test_a_file_directly_in_stages_declares_a_stage_and_no_other_file_does() -> None:
    directly = {module for module in _sources() if module.startswith("stages.") and module.count(".") == 1}
    rooms = {module.rpartition(".")[0] for module in _sources() if module.count(".") == 2}
    assert {module for module, tree in _sources().items() if _declares_a_stage(tree)} == directly - rooms


def test_stage_files_do_not_import_each_other() -> None:
    declaring = {module for module, tree in _sources().items() if _declares_a_stage(tree)}
    assert {"stages.rollout", "stages.grade", "stages.update", "stages.problems"} <= declaring
    assert [(module, found) for module, found in _arrows() if module in declaring and found in declaring] == []


@pytest.mark.parametrize("family", ["engines", "evaluators", "learners", "problem_sources"])
def test_members_of_a_family_do_not_know_each_other(family: str) -> None:
    # a member is what the registry chooses from: its own module, or a folder of its own
    prefix = f"stages.{family}."

    def member(module: str) -> str | None:
        name = module.removeprefix(prefix).split(".")[0]
        return name if module.startswith(prefix) and name not in ("registry", *SHARED_IN_A_FAMILY) else None

    members = {name for module in _sources() if (name := member(module))}
    assert len(members) >= 2
    strangers = [
        (module, found)
        for module, found in _arrows()
        if (one := member(module)) and (other := member(found)) and one != other and {one, other} <= members
    ]
    assert strangers == []


def test_rich_is_only_where_things_are_shown() -> None:
    users = {module for module, found in _arrows() if found.split(".")[0] == "rich"}
    assert {module for module in users if not module.startswith("pipeline.views.") and module != "cli"} == set()


def test_views_query_nothing_and_compute_no_statistics() -> None:
    computing = ("stages.diagnostics", "numpy", "scipy", "duckdb", "statistics", "math")
    views = [module for module in _sources() if module.startswith("pipeline.views.")]
    assert [(module, found) for module, found in _arrows() if module in views and found.startswith(computing)] == []
    # they may name the types of what they show, and nothing that asks for it
    asked = [
        (module, alias.name)
        for module in views
        for node in ast.walk(_sources()[module])
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("store.queries", "store.runs"))
        for alias in node.names
        if not alias.name[0].isupper()
    ]
    assert asked == []


@pytest.mark.parametrize("library", LIBRARY_HOMES)
def test_a_library_is_imported_only_where_it_lives(library: str) -> None:
    homes = LIBRARY_HOMES[library]
    astray = [module for module, found in _arrows() if found.split(".")[0] == library and not module.startswith(homes)]
    assert astray == []


def test_environment_variables_are_read_in_one_file() -> None:
    readers = {
        module
        for module, tree in _sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"))
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }
    assert readers == {"configs.environment"}


def test_exceptions_are_caught_blindly_only_at_the_evaluators_boundary() -> None:
    blind = {
        module
        for module, tree in _sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    }
    assert blind == {"stages.grade"}


@pytest.mark.parametrize(("users_own", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_are_told_to_wait_asleep_before_torch_is_there_unless_the_user_says_otherwise(
    users_own: dict[str, str], found: str
) -> None:
    script = (
        "import atexit, os, sys, cli\n"
        "atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules))\n"
        "sys.argv = ['c3', '--help']\n"
        "cli.main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment | users_own,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"{found} False"


def test_nothing_heavy_is_loaded_with_the_command_line_or_the_commands() -> None:
    script = (
        "import sys, cli, pipeline.commands.training, pipeline.rounds.plan, pipeline.views.receipt\n"
        "print(sorted({'torch', 'transformers', 'peft', 'prefect', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_alone_loads_neither_duckdb_nor_pydantic() -> None:
    script = "import sys, cli; print(sorted({'duckdb', 'pyarrow', 'pydantic', 'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_in_the_wheel() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for layer in FOLDERS for path in (ROOT / layer).rglob("*.py")
    }
    assert folders <= set(declared["packages"])
    assert declared["py-modules"] == ["c3", "cli"]


def test_every_data_file_is_in_the_wheel() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    packed = {
        path
        for package, patterns in declared.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    data = {
        path
        for layer in FOLDERS
        for path in (ROOT / layer).rglob("*")
        if path.is_file() and path.suffix in (".sql", ".toml", ".txt", ".json")
    }
    assert data <= packed


@pytest.mark.parametrize("name", presets())
def test_every_preset_parses(name: str) -> None:
    assert load_config(name).plan.budget >= 1
