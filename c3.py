"""C3 for notebooks and scripts: run rounds, and query what they stored, without importing any other module of C3.

    import c3

    c3.run_iteration(1, config="arithmetic-duo", store="c3-store")
    store = c3.open("c3-store")
    store.sql("SELECT role, avg(advantage) FROM advantages GROUP BY role").df()
    store.round("default", 1).advantages().pl()

C3's packages have plain names (cli, configs, pipeline, stages, store), and a folder of yours may have one of them too.
Importing this module makes those names mean C3's packages in this process, wherever Python was started and whatever
PYTHONPATH says; the rest of `sys.path` stays as it is. See docs/decisions/0001-flat-packages.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

    from configs.schema import Config
    from pipeline.commands.run import RoundResult

HERE = Path(__file__).resolve().parent
PACKAGES = ("cli", "configs", "pipeline", "stages", "store")


class _PackageFinder(MetaPathFinder):
    """Find C3's top-level packages beside this file, before sys.path is searched. Any other name is left to the rest."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where the package lies, or None for a name that is not C3's."""
        return PathFinder.find_spec(fullname, [str(HERE)]) if path is None and fullname in PACKAGES else None


def claim_packages() -> None:
    """Make C3's package names mean C3's packages. ImportError where this process has imported another of that name."""
    for name in PACKAGES:
        module = sys.modules.get(name)
        if module is None:
            continue
        places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
        if not any(
            Path(str(place)).resolve() in (HERE / f"{name}.py", HERE / name / "__init__.py") for place in places
        ):
            raise ImportError(
                f"c3: a module named '{name}' was imported before c3, from {', '.join(map(str, places)) or 'nowhere'}, and C3 "
                f"has a package of that name in {HERE}; one process can hold only one of them: rename yours, or use C3 in a "
                f"process that does not import it",
                name=name,
            )
    if not any(isinstance(finder, _PackageFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PackageFinder())


claim_packages()

from configs.errors import (  # noqa: E402 - only now does the name `configs` mean C3's
    C3Error,
    ConfigError,
    EngineError,
    EvaluatorError,
    LimitReachedError,
    StoreError,
    UpdateError,
)

__all__ = [
    "C3Error",
    "ConfigError",
    "EngineError",
    "EvaluatorError",
    "LimitReachedError",
    "Round",
    "Store",
    "StoreError",
    "UpdateError",
    "load_config",
    "open",
    "run_iteration",
]


class _Tables:
    """The tables of a store or of one round, each as a DuckDB relation: `.df()`, `.pl()`, `.fetchall()`, `.filter(...)`.

    docs/glossary.md says what a row of each is, store/artifacts/schemas.py what each column means. Every table begins with
    the columns run, round and variant. A relation is read when its rows are asked for, and cannot change the store.
    """

    def _table(self, name: str) -> DuckDBPyRelation:
        raise NotImplementedError

    def advantages(self) -> DuckDBPyRelation:
        """Return a row per alternative: text, mean_return, baseline, advantage (NULL: undefined, not 0)."""
        return self._table("advantages")

    def alternatives(self) -> DuckDBPyRelation:
        """Return a row per decision at a state that holds two or more."""
        return self._table("alternatives")

    def contexts(self) -> DuckDBPyRelation:
        """Return a row per replay state: the token ids the role saw, and the messages before it."""
        return self._table("contexts")

    def critic_values(self) -> DuckDBPyRelation:
        """Return a row per alternative: the learned V(h) and Q(h, a), where the estimator reads them."""
        return self._table("critic_values")

    def decisions(self) -> DuckDBPyRelation:
        """Return a row per sampled message: token ids, behaviour log-probs (nats), finish reason."""
        return self._table("decisions")

    def diagnostics(self) -> DuckDBPyRelation:
        """Return a row per figure of `c3 diagnose`, with its interval or the reason why there is none."""
        return self._table("diagnostics")

    def episodes(self) -> DuckDBPyRelation:
        """Return a row per terminal evaluation of rollout and replay: output and reward (NULL: the evaluator failed)."""
        return self._table("episodes")

    def evaluations(self) -> DuckDBPyRelation:
        """Return a row per greedy answer to a held-out problem."""
        return self._table("evaluations")

    def heldout_problems(self) -> DuckDBPyRelation:
        """Return a row per held-out problem: question and reference answer."""
        return self._table("heldout_problems")

    def independent_replays(self) -> DuckDBPyRelation:
        """Return a row per independent replay of `c3 diagnose --replays`; no advantage reads them."""
        return self._table("independent_replays")

    def intervention_replays(self) -> DuckDBPyRelation:
        """Return a row per continuation after an intervention, with its reward."""
        return self._table("intervention_replays")

    def interventions(self) -> DuckDBPyRelation:
        """Return a row per given message at a frozen state: `c3 what-if`, or the empty message of ccpo."""
        return self._table("interventions")

    def logprob_mismatch(self) -> DuckDBPyRelation:
        """Return a row per role and update: how far the engine's log-probs are from the trainer's (nats per token)."""
        return self._table("logprob_mismatch")

    def problems(self) -> DuckDBPyRelation:
        """Return a row per training problem: question and reference answer."""
        return self._table("problems")

    def replays(self) -> DuckDBPyRelation:
        """Return a row per continuation of an alternative."""
        return self._table("replays")

    def rewards(self) -> DuckDBPyRelation:
        """Return a row per graded episode: reward (NULL: the evaluator failed), reason, parsed answer."""
        return self._table("rewards")

    def rounds(self) -> DuckDBPyRelation:
        """Return a row per round and variant: which policy it started from, and whether that is stale."""
        return self._table("rounds")

    def steps(self) -> DuckDBPyRelation:
        """Return a row per optimiser step and role: loss, ratio, clipped share, KL, gradient norm."""
        return self._table("steps")

    def transcripts(self) -> DuckDBPyRelation:
        """Return a row per episode of the rollout: its decisions in speaking order, and its output."""
        return self._table("transcripts")

    def update_rows(self) -> DuckDBPyRelation:
        """Return a row per alternative the update was given: its advantage, or why it was skipped."""
        return self._table("update_rows")


class Store(_Tables):
    """A store that is there: every run, round and variant in it. `open` makes one.

    >>> store = c3.open("c3-store")
    >>> store.advantages().filter("role = 'actor'").count("*").fetchall()
    [(64,)]
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"c3.open({str(self.root)!r})"

    def _table(self, name: str) -> DuckDBPyRelation:
        from store.disk.layout import Layout
        from store.queries.catalog_views import table

        return table(Layout(self.root), name)

    def sql(self, query: str) -> DuckDBPyRelation:
        """Return the rows of one SELECT over all tables, as `c3 sql` does; `SHOW TABLES` lists them.

        Read-only: the query sees the store's files and no others. ConfigError, with DuckDB's own words, where it is not one
        reading statement; a value that the query cannot work with is a duckdb.Error when the rows are asked for.

        >>> c3.open("c3-store").sql("SELECT role, count(*) FROM advantages GROUP BY role ORDER BY role").fetchall()
        [('actor', 64), ('reasoner', 16)]
        """
        from store.disk.layout import Layout
        from store.queries.catalog_views import query as run_query

        return run_query(Layout(self.root), query)

    def runs(self) -> list[str]:
        """Return the names of the runs, sorted.

        >>> c3.open("c3-store").runs()
        ['default']
        """
        from store.disk.layout import Layout
        from store.runs.records import runs

        return sorted(runs(Layout(self.root)))

    def round(self, run: str, number: int, variant: str = "main") -> Round:
        """Return one round's tables; rounds are counted from 1. One that has not run has tables without rows.

        StoreError when the store has no run of that name.

        >>> c3.open("c3-store").round("default", 1).advantages().columns[:6]
        ['run', 'round', 'variant', 'decision_id', 'state_id', 'context_id']
        """
        known = self.runs()
        if run not in known:
            raise StoreError(f"run '{run}': not in {self.root} (there is {', '.join(known) or 'none'})")
        return Round(self, run, number, variant)

    def why(self, id: str, run: str = "default", round: int | None = None, variant: str = "main") -> dict[str, Any]:
        """Return what is behind an advantage, as `c3 why ID --json` prints it.

        `id` names a decision, a state or a problem; `round` None means the latest round that has advantages. The result has
        the estimator and a list of groups, each with its state, its alternatives, their returns, baselines and replays;
        None stands where a value is undefined. ConfigError when nothing in the round has that id, StoreError when the
        round has no advantages.

        >>> store = c3.open("c3-store")
        >>> [(decision,)] = store.sql("SELECT decision_id FROM advantages WHERE role = 'actor' LIMIT 1").fetchall()
        >>> group = store.why(decision)["groups"][0]
        >>> group["role"], len(group["alternatives"])
        ('actor', 4)
        """
        from pipeline.commands.session import RoundOptions, latest_options, open_session
        from pipeline.commands.why import explain, question_of

        options = RoundOptions(self.root, run, round or 1, variant)
        session = open_session(options if round else latest_options(options, "advantages"))
        return explain(session.resolver, *question_of(id, None, None, None, None))

    def policy(
        self,
        run: str,
        round: int,
        directory: str | Path | None = None,
        *,
        policy: str | None = None,
        variant: str = "main",
    ) -> Path:
        """Write the policy that a round ended with as a PEFT directory, and return that directory.

        `directory` must be new or empty; None makes a temporary one, which is yours to delete. A team of several policies
        has one directory each below it, by name; `policy` picks one. `PeftModel.from_pretrained(base_model, directory)` loads
        it. ConfigError where there is no adapter: round 0, a policy trained in full, or, as here, a world without a model.

        >>> c3.open("c3-store").policy("default", 1)
        Traceback (most recent call last):
        configs.errors.ConfigError: c3 export policy: a scripted world has tables, no model; their rows are in the store
        """
        from tempfile import mkdtemp

        from pipeline.commands.export_policy import export_policy
        from pipeline.commands.session import RoundOptions, open_session

        session = open_session(RoundOptions(self.root, run, round, variant))
        target = Path(directory or mkdtemp(prefix=f"c3-{run}-{round}-"))
        export_policy(session.round, target, policy, merge=False)
        return target


class Round(_Tables):
    """The tables of one round of a run. `Store.round` makes one.

    >>> done = c3.open("c3-store").round("default", 1)
    >>> done.rewards().aggregate("count(*)").fetchall()
    [(64,)]
    >>> done.steps().filter("step = 1").project("role").fetchall()
    [('actor',), ('reasoner',)]
    """

    def __init__(self, store: Store, run: str, number: int, variant: str) -> None:
        self.store, self.run, self.number, self.variant = store, run, number, variant

    def __repr__(self) -> str:
        return f"{self.store!r}.round({self.run!r}, {self.number}, {self.variant!r})"

    def _table(self, name: str) -> DuckDBPyRelation:
        from store.disk.layout import Layout
        from store.queries.catalog_views import table_of_round

        return table_of_round(Layout(self.store.root), name, self.run, self.number, self.variant)


def open(store: str | Path | None = None) -> Store:
    """Return a store's tables for reading. None: what C3_STORE says, else c3-store in the current folder.

    StoreError when there is no such folder.

    >>> c3.open("c3-store")
    c3.open('c3-store')
    """
    root = _root(store)
    if not root.is_dir():
        raise StoreError(f"{root}: no such store; c3.run_iteration or `c3 run` makes one")
    return Store(root)


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the checked configuration of a TOML file or preset, with overrides such as "update.learning_rate=1e-4".

    ConfigError naming the file, the key and the cure.

    >>> config = c3.load_config("scripted-duo", ["seed=3"])
    >>> config.seed, [role.name for role in config.roles]
    (3, ['reasoner', 'actor'])
    """
    from configs.load import load_config as load

    return load(str(source), overrides)


def run_iteration(
    round: int,
    *,
    run: str = "default",
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    variant: str = "main",
    until: str = "update",
    rerun_from: str | None = None,
    draw_set: int | None = None,
    workers: int | None = None,
    max_seconds: float | None = None,
    max_evaluations: int | None = None,
    store: str | Path | None = None,
) -> RoundResult:
    """Run one round, as `c3 run iteration` does: collect, credit, update. What is there is reused.

    `config` is a TOML file or a preset and is recorded with the run: later rounds need none. The other arguments are the
    command's options. The result says of each step whether it was reused (`reports`) and has the round's `figures` (None
    when it stopped before its rewards). Raises a C3Error: ConfigError before anything runs, LimitReachedError at the end
    of the part in which a limit is reached, and the others as their names say.

    >>> result = c3.run_iteration(1, config="scripted-duo", store="c3-store")
    >>> [report.name for report in result.reports]
    ['problems', 'rollout', 'freeze', 'sample', 'replay', 'grade', 'advantages', 'update']
    """
    from pipeline.commands import run as commands
    from pipeline.commands.session import RoundOptions, configure_session
    from pipeline.execution.process import prepare_process

    prepare_process()
    source = None if config is None else str(config)
    options = RoundOptions(
        _root(store), run, round, variant, source, tuple(overrides), max_seconds, max_evaluations, workers
    )
    session = configure_session(options)
    commands.request_draw_set(session, draw_set)
    return commands.run_iteration(session, until, rerun_from)


def __getattr__(name: str) -> Any:
    """Return the flow that Prefect's own processes import by the name `c3.requested_round`; there is no other such name."""
    if name != "requested_round":
        raise AttributeError(f"module 'c3' has no attribute '{name}'")
    from pipeline.deployments import requested_round

    return requested_round


def main() -> None:
    """Run the `c3` command, with C3's own packages first."""
    from cli import main as run_command

    run_command()


def _root(store: str | Path | None) -> Path:
    from configs.environment import store_root

    return Path(store) if store is not None else store_root()
