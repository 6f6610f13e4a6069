"""The guard of versions misses nothing: each source that decides rows is somebody's, and each change to it is noticed."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.base.parts import selected_problems
from tests.support.row_sources import FOLDERS, RowSources, read_tree
from tests.support.source_facts import essence
from tests.support.version_guard import EXCLUDED, IN_THE_KEY, QUESTIONS, ROOT, matches, sources, undecided

# --- nothing is missed


def test_every_sql_file_is_somebodys_in_the_key_or_a_named_question() -> None:
    owned = {path for owner in sources().owners.values() for path in owner.files}
    for path in sources().sql:
        named = matches(path, {**QUESTIONS, **IN_THE_KEY})
        assert len(named) + (path in owned) == 1, f"{path}: owned {path in owned}, named by {named}"
    used = {pattern for path in sources().sql for pattern in matches(path, {**QUESTIONS, **IN_THE_KEY})}
    assert used == {*QUESTIONS, *IN_THE_KEY}


@pytest.mark.parametrize("module", EXCLUDED)
def test_what_is_excluded_would_be_owned_otherwise_and_returns_nothing(module: str) -> None:
    tree = sources()
    path = tree.modules[module]
    everything = RowSources(tree.text, tree.excluded - {module}, tree.writers, tree.wiring).owners
    assert any(path in owner.files for owner in everything.values()), "it need not be excluded"
    assert not any(path in owner.files for owner in tree.owners.values())
    returned = {
        function.name: ast.unparse(function.returns) if function.returns else None
        for function in ast.walk(ast.parse(tree.text[path]))
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_")
    }
    told = {"lock_owner": "str | None"}  # for messages
    assert {name for name, what in returned.items() if what not in ("None", "Iterator[None]", told.get(name))} == set()


def test_only_docstrings_typing_and_settings_are_no_part_of_a_modules_essence() -> None:
    for path in sources().modules.values():
        text = sources().text[path]
        raw = ast.parse(text)
        seen = {_place(node) for node in ast.walk(essence(text)) if isinstance(node, ast.expr | ast.stmt)}
        for node, inside in _with_block(raw):
            if _place(node) in seen:
                continue
            assert inside in ("docstring", "typing", "setting"), f"{path}:{node.lineno}: {ast.unparse(node)}"


def _place(node: ast.AST) -> tuple[Any, ...]:
    return type(node).__name__, *(getattr(node, name, None) for name in ("lineno", "col_offset", "end_col_offset"))


def _with_block(node: ast.AST, inside: str = "") -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield every expression and statement, and whether it is a docstring, for typing or a configuration's setting."""
    for child in ast.iter_child_nodes(node):
        what = inside
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            what = "docstring"
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            what = "typing"
        elif isinstance(child, ast.AnnAssign) and isinstance(node, ast.ClassDef):
            what = "setting" if any(isinstance(base, ast.Name) and base.id == "Section" for base in node.bases) else ""
        if isinstance(child, ast.expr | ast.stmt):
            yield child, what
        yield from _with_block(child, what)


def test_words_about_the_code_are_no_change() -> None:
    path = sources().modules[selected_problems.__module__]
    docstring = sources().text[path].replace('"""', '"""Other words. ', 1)
    assert _noticed(sources().with_text({path: f"{docstring}\n# why\n"})) == {}
    sql = next(
        path for path in sorted(sources().sql) if any(path in owner.files for owner in sources().owners.values())
    )
    assert _noticed(sources().with_text({sql: f"-- other words\n{sources().text[sql]}"})) == {}


# --- who answers for what, on a small tree


TREE = {
    "configs/size.py": "SIZE = 1",
    "store/rows.py": 'SQL = Path(__file__).parent / "sql"',
    "store/sums.py": """
from store.rows import SQL
x = [SQL / f"{name}.sql" for name in ("plain",)]
y = SQL / "many" / f"{n}.sql"
""",
    "store/sql/plain.sql": "SELECT 1",
    "store/sql/other.sql": "SELECT 2",
    "store/sql/many/one.sql": "SELECT 3",
    "stages/count.py": """
if TYPE_CHECKING:
    from configs.types import T
from stages.engines.registry import make
def later():
    from store.sums import x
COUNT = Stage("count", 3, ())
""",
    "configs/types.py": "T = 1",
    "stages/engines/registry.py": 'from stages.engines import small\nLARGE = "stages.engines.large.engine.Large"',
    "stages/engines/small.py": "from configs.size import SIZE\nVERSION = 1",
    "stages/engines/large/__init__.py": "VERSION = 2",
    "stages/engines/large/engine.py": "import stages.engines.large.cache",
    "stages/engines/large/cache.py": "from stages.engines.helper import h",
    "stages/engines/helper.py": "h = 1",
}


def test_an_owner_answers_for_what_is_reached_without_passing_a_component() -> None:
    owners = RowSources(TREE).owners
    assert {name: owner.version for name, owner in owners.items()} == {
        "stages.count": 3,
        "stages.engines.small": 1,
        "stages.engines.large": 2,
    }
    assert set(owners["stages.count"].files) == {
        "stages/count.py",
        "stages/engines/registry.py",
        "store/sums.py",  # imported in a function
        "store/rows.py",
        "store/sql/plain.sql",  # its name stands in sums.py, that of other.sql does not
        "store/sql/many/one.sql",
    }
    assert owners["stages.count"].components == {
        "stages.engines.small",
        "stages.engines.large",
    }  # one named in a string
    assert set(owners["stages.engines.small"].files) == {"stages/engines/small.py", "configs/size.py"}
    large = {f"stages/engines/{name}.py" for name in ("large/__init__", "large/engine", "large/cache", "helper")}
    assert set(owners["stages.engines.large"].files) == large


# --- one change at a time


def _noticed(changed: RowSources) -> dict[str, str]:
    """Owner -> what has to be decided, had the present source been recorded."""
    before = sources().owners
    record = {
        "owners": {name: {"version": owner.version, "source": owner.digest} for name, owner in before.items()},
        "files": {path: digest for owner in before.values() for path, digest in owner.files.items()},
    }
    return {name: text for name, owner in changed.owners.items() if (text := undecided(owner, record))}


OPERATORS: Mapping[type[ast.AST], ast.AST] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.Add(),
    ast.Div: ast.Mult(),
    ast.FloorDiv: ast.Mult(),
    ast.Mod: ast.Mult(),
    ast.Pow: ast.Mult(),
    ast.BitOr: ast.BitAnd(),
    ast.Eq: ast.NotEq(),
    ast.NotEq: ast.Eq(),
    ast.Lt: ast.GtE(),
    ast.LtE: ast.Gt(),
    ast.Gt: ast.LtE(),
    ast.GtE: ast.Lt(),
    ast.Is: ast.IsNot(),
    ast.IsNot: ast.Is(),
    ast.In: ast.NotIn(),
    ast.NotIn: ast.In(),
    ast.And: ast.Or(),
    ast.Or: ast.And(),
}


class _Change(ast.NodeTransformer):
    """Change the n-th constant or operator of a tree; `seen` counts them."""

    def __init__(self, place: int = -1) -> None:
        self.place = place
        self.seen = 0

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, str):
            return self._turn(node, ast.Constant(f"{value}x"))
        if isinstance(value, bool):
            return self._turn(node, ast.Constant(not value))
        return self._turn(node, ast.Constant(value + 1)) if isinstance(value, int | float) else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.value = self.visit(node.value) if node.value else None  # a type is no constant
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        other = OPERATORS.get(type(node))
        return node if other is None else self._turn(node, other)

    def _turn(self, node: ast.AST, other: ast.AST) -> ast.AST:
        self.seen += 1
        return other if self.seen - 1 == self.place else node


def _changes(path: str) -> Iterator[str]:
    """Yield a file's text with one constant or operator changed: the first, one in the middle and the last."""
    text = sources().text[path]
    if path.endswith(".sql"):
        lines = text.splitlines()
        places = [place for place, line in enumerate(lines) if line.strip() and not line.strip().startswith("--")]
        for place in {places[0], places[len(places) // 2], places[-1]}:
            yield "\n".join([*lines[:place], f"{lines[place]} + 1", *lines[place + 1 :]])
        return
    counting = _Change()
    counting.visit(essence(text))
    for place in sorted({0, counting.seen // 2, counting.seen - 1}) if counting.seen else ():
        yield ast.unparse(_Change(place).visit(essence(text)))


OWNED = sorted({path for owner in sources().owners.values() for path in owner.files if path in sources().text})


@pytest.mark.parametrize("path", OWNED)
def test_one_constant_or_operator_changed_is_noticed_by_everything_that_depends_on_it(path: str) -> None:
    owners = {name for name, owner in sources().owners.items() if path in owner.files}
    changes = list(_changes(path))
    for text in changes:
        noticed = _noticed(sources().with_text({path: text}))
        assert owners <= noticed.keys()
        assert all(path in noticed[name] for name in owners)
    assert changes or _declares_only(path), f"{path} has neither constant nor operator to change"


def _declares_only(path: str) -> bool:
    """Whether a module has types and settings and no code."""
    functions = [node for node in ast.walk(essence(sources().text[path])) if isinstance(node, ast.FunctionDef)]
    return all(ast.unparse(node.body[-1]) in ("...", "pass") for node in functions)


NAMED: Mapping[str, tuple[str, str, str, str]] = {
    # what changes: the function it is in, the text there, the text instead, a stage whose rows come out otherwise
    "the order of an epoch": ("selected_problems", 'seed_from("epoch"', 'seed_from("epochs"', "rollout"),
    "the scripted engine's inverse CDF": ("_completion", 'side="right"', 'side="left"', "sample"),
    "the transformers engine's inverse CDF": ("_inverse_cdf", "right=True", "right=False", "sample"),
    "the escape of prompts": ("_broken", "[0]} {token", "[0]}{token", "freeze"),
    "the logits of scripted worlds": ("world_logits", "config.spread *", "config.spread +", "replay"),
}


@pytest.mark.parametrize("change", NAMED)
def test_a_change_on_disk_is_noticed_by_the_changed_files_name(change: str, tmp_path: Path) -> None:
    function, old, new, stage = NAMED[change]
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    [path] = [path for path in sources().modules.values() if _defines(path, function, old)]
    text = (tmp_path / path).read_text(encoding="utf-8")
    begin = text.index(f"def {function}(")
    (tmp_path / path).write_text(text[:begin] + text[begin:].replace(old, new, 1), encoding="utf-8")

    changed = replace(sources(), text=read_tree(tmp_path))
    noticed = _noticed(changed)
    assert noticed.keys() & {f"stages.{stage}", *_components_of(f"stages.{stage}")}
    assert all(f"changed: {path}. If rows" in text for text in noticed.values())


def _defines(path: str, function: str, text: str) -> bool:
    begin = sources().text[path].find(f"def {function}(")
    return begin >= 0 and text in sources().text[path][begin:]


def _components_of(name: str) -> set[str]:
    """Every component that can be reached from an owner."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        more = sources().owners[waiting.pop()].components - found
        found |= more
        waiting += more
    return found
