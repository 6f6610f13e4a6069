"""Which source decides a stage's rows: derived from imports, strings that name modules, and the .sql files that are read.

An owner has a version that is raised by hand. It is a stage (a module that declares a `Stage`) or a component: a module
with a `VERSION` that is in the keys of the stages which use it, or a package whose `__init__` has one for all its modules.
An owner answers for every file that can be reached from it without passing a component, and components for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from tests.support.source_facts import Facts, python_facts, short_digest, sql_facts

FOLDERS = ("configs", "store", "stages")
"""What stages are made of. The pipeline decides which stages run and what each is given; `wiring` says the latter."""
_NAMED = re.compile(rf"\b(?:{'|'.join(FOLDERS)})(?:\.\w+)+\.?")


@dataclass(frozen=True)
class Owner:
    """Something with a version, and the source that it answers for."""

    name: str
    version: int
    files: Mapping[str, str]
    """Path -> digest."""
    components: frozenset[str]
    """Components that can be reached from it."""

    @property
    def digest(self) -> str:
        """Of all that it answers for."""
        return short_digest("\n".join(f"{path} {digest}" for path, digest in sorted(self.files.items())))


def read_tree(root: Path) -> dict[str, str]:
    """Return the text of every module and .sql file by its path below the root."""
    paths = [path for folder in FOLDERS for end in ("py", "sql") for path in (root / folder).rglob(f"*.{end}")]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}


@dataclass(frozen=True)
class RowSources:
    """A source tree, and what in it decides the rows of stages."""

    text: Mapping[str, str]
    """By path."""
    excluded: frozenset[str] = frozenset()
    """Modules by name and .sql files by path that cannot affect rows, or are in the key themselves."""
    writers: frozenset[str] = frozenset()
    """Modules that turn any stage's output into stored rows."""
    wiring: Mapping[str, object] = field(default_factory=dict)
    """By a stage's module: the inputs of its steps. Their order is that of its rows, and is not in its key."""

    def with_text(self, changed: Mapping[str, str]) -> RowSources:
        """Return the tree with some files changed."""
        assert changed.keys() <= self.text.keys(), "no such file"
        return replace(self, text={**self.text, **changed})

    @cached_property
    def owners(self) -> dict[str, Owner]:
        """Every stage and component by the name of its module or package."""
        return {name: self._owner(name) for name, path in self.modules.items() if self.facts(path).version is not None}

    @cached_property
    def modules(self) -> dict[str, str]:
        """The path of every module; of a package, that of its `__init__`."""
        return {module_name(path): path for path in self.text if path.endswith(".py")}

    @cached_property
    def sql(self) -> frozenset[str]:
        """Paths of all .sql files."""
        return frozenset(path for path in self.text if path.endswith(".sql"))

    def facts(self, path: str) -> Facts:
        """Return what a file says."""
        return sql_facts(self.text[path]) if path.endswith(".sql") else python_facts(self.text[path])

    def _owner(self, name: str) -> Owner:
        facts = self.facts(self.modules[name])
        assert facts.version is not None
        if facts.declares_stage:
            reached, components = self._reach({name, *self.writers}, None)
        else:
            reached, components = self._reach({member for member, own in self.component.items() if own == name}, name)
        files = {path: self.facts(path).digest for path in reached}
        if name in self.wiring:
            files[f"inputs of the steps of {name}"] = short_digest(repr(self.wiring[name]))
        return Owner(name, facts.version, files, frozenset(components))

    def _reach(self, starts: set[str], own: str | None) -> tuple[set[str], set[str]]:
        """Return the paths of all files that can be reached, and the components where the search ended."""
        reached = {self.modules[name] for name in starts}
        components: set[str] = set()
        waiting = list(reached)
        while waiting:
            for other in self.uses(waiting.pop()) - reached:
                component = self.component.get(module_name(other))
                if component in (None, own):
                    reached.add(other)
                    waiting.append(other)
                elif component is not None:
                    components.add(component)
        return reached, components

    @cached_property
    def component(self) -> dict[str, str]:
        """Module -> the component that answers for it: itself, or the nearest package that has a VERSION."""
        versioned = {
            name: path
            for name, path in self.modules.items()
            if self.facts(path).version is not None and not self.facts(path).declares_stage
        }
        packages = {name for name, path in versioned.items() if path.endswith("/__init__.py")}
        found = {name: next((parent for parent in _parents(name) if parent in packages), None) for name in self.modules}
        return {**{name: own for name, own in found.items() if own}, **{name: name for name in versioned}}

    @cached_property
    def _uses(self) -> dict[str, frozenset[str]]:
        return {}

    def uses(self, path: str) -> frozenset[str]:
        """Return the files that a file imports, names in a string, or reads as .sql; packages that run code among them."""
        if path not in self._uses:
            facts = self.facts(path)
            names = {self._imported(module, name) for module, name in facts.imports}
            names |= {module for text in facts.strings for module in self._named(text)}
            names |= {parent for name in names for parent in _parents(name) if self._has_code(parent)}
            names -= self.excluded
            files = {self.modules[name] for name in names if name in self.modules}
            self._uses[path] = frozenset((files | self._sql_files(path, facts)) - self.excluded - {path})
        return self._uses[path]

    def _imported(self, module: str, name: str | None) -> str:
        return f"{module}.{name}" if f"{module}.{name}" in self.modules else module

    def _has_code(self, package: str) -> bool:
        return package in self.modules and self.runs_code(self.modules[package])

    def runs_code(self, path: str) -> bool:
        """Tell whether there is anything in a file but words about it."""
        return self.facts(path).digest not in (python_facts("").digest, sql_facts("").digest)

    def _named(self, text: str) -> Iterator[str]:
        """Yield modules that a string names: "stages.x.y.Class", "from stages.x import y"; "stages.x." is all of a package."""
        for found in _NAMED.findall(text):
            if found.endswith("."):
                yield from (name for name in self.modules if name.startswith(found))
            yield from [name for name in (found, *_parents(found)) if name in self.modules][:1]

    # --- .sql files

    def _sql_files(self, path: str, facts: Facts) -> set[str]:
        found: set[str] = set()
        for name, pattern in facts.paths:
            folder = self._sql_folder(path, name, facts)
            if folder is not None:
                found |= self._matching(folder, pattern, facts.strings)
        return found

    def _sql_folder(self, path: str, name: str, facts: Facts) -> str | None:
        """Return the folder of .sql files that a name stands for, here or where it is imported from; None: for none."""
        homes = [self.modules[module] for module, what in facts.imports if what == name and module in self.modules]
        for home in (path, *homes):
            for parent in PurePosixPath(home).parents if name in self.facts(home).folders else ():
                folder = (parent / self.facts(home).folders[name]).as_posix()
                if any(file.startswith(f"{folder}/") for file in self.sql):
                    return folder
        return None

    def _matching(self, folder: str, pattern: str, strings: frozenset[str]) -> set[str]:
        below = {file.removeprefix(f"{folder}/"): file for file in self.sql if file.startswith(f"{folder}/")}
        if "/" not in pattern and "*" in pattern:  # SQL / f"{name}.sql": the module itself says which names
            return {file for name, file in below.items() if {name, name.removesuffix(".sql")} & strings}
        parts = "[^/]*".join(re.escape(part) for part in pattern.split("*"))
        wanted = parts if pattern.endswith(".sql") else rf"{parts}/.*" if pattern else ".*"
        return {file for name, file in below.items() if re.fullmatch(wanted, name)}


def module_name(path: str) -> str:
    """Return the dotted name of the module at a path."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _parents(name: str) -> list[str]:
    """Return the packages around a module, the nearest first."""
    parts = name.rstrip(".").split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
