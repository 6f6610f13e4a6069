"""What one source file says, read from its syntax: a digest of what it does, what it uses, its version."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

_DIGITS = 16


@dataclass(frozen=True)
class Facts:
    """Say what one file says, apart from where it lies."""

    digest: str
    """Of its code without comments, docstrings, layout, or what only a type checker reads."""
    imports: frozenset[tuple[str, str | None]] = frozenset()
    """(module, name), name None for `import module`; in functions too."""
    strings: frozenset[str] = frozenset()
    """Docstrings aside."""
    version: int | None = None
    """The module's `VERSION`, or that of the stage which it declares."""
    declares_stage: bool = False
    folders: Mapping[str, str] = field(default_factory=dict)
    """Names that stand for a folder: SQL = Path(...) / "sql" -> {"SQL": "sql"}."""
    paths: frozenset[tuple[str, str]] = frozenset()
    """(constant, pattern below it) of every path that is made from a name: SQL / "why" / f"{x}.sql" -> ("SQL", "why/*.sql")."""


@cache
def sql_facts(text: str) -> Facts:
    """Return the facts of a .sql file: its lines without those that are comments."""
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith("--")]
    return Facts(short_digest("\n".join(lines)))


@cache
def python_facts(text: str) -> Facts:
    """Return the facts of a module."""
    tree = essence(text)
    nodes = list(ast.walk(tree))
    stages = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Stage"]
    assert len(stages) <= 1, "a file declares one stage"
    constants = dict(_assignments(tree))
    version = _version_of_stage(stages[0], constants) if stages else _integer(constants.get("VERSION"))
    folders = {
        name: value.right.value
        for name, value in constants.items()
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div)
        if isinstance(value.right, ast.Constant) and isinstance(value.right.value, str)
    }
    return Facts(
        short_digest(ast.dump(tree)),
        frozenset(_imports(nodes)),
        frozenset(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)),
        version,
        bool(stages),
        folders,
        frozenset(_paths(nodes)),
    )


def essence(text: str) -> ast.Module:
    """Return what of a module decides what it does: no docstrings, nothing that only a type checker reads, no fields.

    Fields of a configuration section are declarations: their values are in the key wherever a stage reads them
    (tests/configs/test_config_keys.py goes through all of them), so that a new setting touches no stage.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for block in ("body", "orelse"):
            body = getattr(node, block, None)
            if isinstance(body, list):
                declared = isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Section" for base in node.bases)
                kept = [part for part in body if not _says_nothing(part, declared)]
                setattr(node, block, kept or [ast.Pass()] if body else [])
    return tree


def _says_nothing(part: ast.stmt, in_section: bool) -> bool:
    if isinstance(part, ast.Expr):
        return isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)
    if isinstance(part, ast.If):
        return ast.unparse(part.test) == "TYPE_CHECKING" and not part.orelse
    return in_section and isinstance(part, ast.AnnAssign)


def _imports(nodes: list[ast.AST]) -> Iterator[tuple[str, str | None]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _version_of_stage(call: ast.Call, constants: Mapping[str, ast.expr]) -> int:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    node = given.get("version") or call.args[1]
    version = _integer(constants.get(node.id) if isinstance(node, ast.Name) else node)
    assert version is not None, f"a stage's version is a number that stands in its file, not {ast.unparse(node)}"
    return version


def _integer(node: ast.expr | None) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _paths(nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """Paths that begin with a name, as patterns; a name that is used otherwise may lead anywhere below it."""
    inner = {id(node.left) for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)}
    searched = {
        id(node.func.value): node.args[0]
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
        if node.func.attr in ("glob", "rglob")
    }
    for node in nodes:
        if id(node) in inner or not isinstance(node, ast.BinOp | ast.Name):
            continue
        segments: list[ast.expr] = [searched[id(node)]] if id(node) in searched else []
        start: ast.expr = node
        while isinstance(start, ast.BinOp) and isinstance(start.op, ast.Div):
            segments.insert(0, start.right)
            start = start.left
        if isinstance(start, ast.Name) and isinstance(start.ctx, ast.Load):
            yield start.id, "/".join(map(_pattern, segments))


def _pattern(segment: ast.expr) -> str:
    if isinstance(segment, ast.Constant):
        return str(segment.value)
    if isinstance(segment, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in segment.values)
    return "*"


def short_digest(text: str) -> str:
    """Return a hash for records that people read."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
