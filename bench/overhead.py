"""What the pipeline itself costs: a finished round, its share of a running one, and a part.

    python bench/overhead.py [--preset arithmetic-duo] [--rounds 2] [--parts 64]

1. `c3 run iteration` on a finished round, in all: from a warm and from a cold file cache, beside a process that only
   imports the libraries it cannot do without. It must need no torch, Prefect, DuckDB, pyarrow or server.
2. The round's wall time, less what its engine, evaluator and update calls took (training, and the learner's writing of its
   weights and moments), of each of some rounds in one process: what is left is the pipeline's own. Starting up (imports,
   Prefect's server) is reported beside.
3. A part's cost: a scripted round of many parts as task runs of Prefect, beside the same parts called one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

FINISHED = """
import sys, cli
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
heavy = sorted({"torch", "transformers", "prefect", "pyarrow", "numpy", "scipy", "duckdb"} & set(sys.modules))
server = sys.modules.get("pipeline.flows.server")
print("heavy", heavy, "servers", len(server._temporary) if server else 0)
"""
LIBRARIES = "import typer, rich, pydantic, filelock"
CALLS = ("engine", "evaluator", "update")


def main() -> None:
    """Run all three and print their tables."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--preset", default="arithmetic-duo")
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--parts", type=int, default=64)
    arguments.add_argument("--times", type=int, default=5, help="the least of so many is taken")
    arguments.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.measure:
        measure(json.loads(chosen.measure))
        return
    with tempfile.TemporaryDirectory() as folder:
        share(Path(folder) / "store", chosen.preset, chosen.rounds)
        finished_round(Path(folder) / "store", chosen.times)
        part(Path(folder), chosen.parts)


# ---- a finished round


def finished_round(store: Path, times: int) -> None:
    """Wall seconds of `c3 run iteration` where all is there."""
    arguments = ["run", "iteration", "--run", "bench", "--round", "1", "--store", str(store)]
    words = _output([sys.executable, "-c", FINISHED, *arguments]).splitlines()[-1]
    assert words == "heavy [] servers 0", words
    print("\nfinished round: no torch, Prefect, DuckDB, pyarrow or numpy imported, no server started")
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    libraries = [sys.executable, "-c", LIBRARIES]
    rows = [("warm", None)]
    if _drop_caches():
        rows.append(("cold", _drop_caches))
    else:
        print("cold: /proc/sys/vm/drop_caches cannot be written here, so it was not measured")
    for name, before in rows:
        (ours, cpu), (theirs, _) = (_least(times, line, before) for line in (command, libraries))
        print(
            f"{name:<6}{ours:8.2f} s ({cpu:.2f} s CPU)   {ours / theirs:5.2f} x its libraries' imports ({theirs:.2f} s)"
        )


def _least(times: int, command: list[str], before: Callable[[], Any] | None) -> tuple[float, float]:
    """Wall and CPU seconds of the quickest."""
    found = []
    for _ in range(times):
        if before is not None:
            before()
        started, spent = time.perf_counter(), _children_seconds()
        _output(command)
        found.append((time.perf_counter() - started, _children_seconds() - spent))
    return min(found)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _drop_caches() -> bool:
    """Empty the system's file cache. False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


# ---- a round's own share


def share(store: Path, preset: str, rounds: int) -> None:
    """What a round's wall time consists of."""
    command = {"store": str(store), "preset": preset, "overrides": [], "rounds": rounds}
    told = json.loads(_output([sys.executable, __file__, "--measure", json.dumps(command)]).splitlines()[-1])
    print(f"start-up beside: {told['start']:.1f} s, of which Prefect's server {told['server']:.1f} s")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: wall times are the machine's as it was")
    headings = "".join(f"{name:>11}" for name in (*CALLS, "pipeline"))
    print(f"{'round':<8}{'in all':>9}{headings}{'share':>8}{'of CPU time':>16}")
    together = {name: sum(found[name] for found in told["rounds"]) for name in told["rounds"][0]}
    for number, found in [*enumerate(told["rounds"], start=1), ("all", together)]:
        own = found["all"] - sum(found[name] for name in CALLS)
        calls = "".join(f"{found[name]:9.2f} s" for name in CALLS)
        cpu = f"{found['cpu']:9.2f} s{found['cpu'] / found['cpu_all']:8.1%}"
        print(f"{number:<8}{found['all']:7.2f} s{calls}{own:9.2f} s{own / found['all']:8.1%}{cpu}")


def measure(command: dict[str, Any]) -> None:
    """In a process of its own: rounds as `c3 run training` runs them, every outside call timed. Prints JSON."""
    begun = time.perf_counter()
    from pipeline.commands import run as commands
    from pipeline.commands.session import RoundOptions, configure_session, open_session
    from pipeline.execution.process import prepare_process

    prepare_process()
    spent: dict[str, float] = defaultdict(float)
    options = RoundOptions(Path(command["store"]), "bench", 1, config=command["preset"], overrides=command["overrides"])
    session = configure_session(options)
    with _watching(spent):
        session.context.load_ahead(session.round.config)
        with commands._serving(session):  # Prefect's import and server, and the model, before the first round
            session.context.ready()
        start, server = time.perf_counter() - begun, spent["server"]
        rounds = []
        for number in range(1, command["rounds"] + 1):
            spent.clear()
            started, cpu = time.perf_counter(), time.process_time()
            commands.run_iteration(open_session(replace(options, round=number), context=session.context))
            seconds = {"all": time.perf_counter() - started, **{name: spent[name] for name in CALLS}}
            cpu = time.process_time() - cpu
            rounds.append({**seconds, "cpu": cpu - spent["cpu"], "cpu_all": cpu})
    print(json.dumps({"start": start, "server": server, "rounds": rounds}))


@contextmanager
def _watching(spent: dict[str, float]) -> Iterator[None]:
    """Time what a round waits for: the engine, the evaluator, the update, and the server's start."""
    from pipeline.commands import run as commands
    from stages.base.resources import Resources
    from stages.update import UPDATE

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            started, cpu = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - started
                spent["cpu"] += time.process_time() - cpu

        return run

    class Timed:
        """A tool of which some calls are timed."""

        def __init__(self, tool: Any, name: str, *calls: str) -> None:
            self._tool = tool
            for call in calls:
                setattr(self, call, timed(name, getattr(tool, call)))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tool, name)

    def update(*given: Any) -> Any:
        output = timed("update", make)(*given)
        return replace(output, write_files=timed("update", output.write_files))

    engine, evaluator, use_server, make = Resources.engine, Resources.evaluator, commands.use_server, UPDATE.make

    def timed_engine(*given: Any) -> Any:
        found: Any = Timed(timed("engine", engine)(*given), "engine", "generate")
        found.codec = Timed(found.codec, "engine", "encode", "decode")
        return found

    Resources.engine = timed_engine  # type: ignore[assignment]
    Resources.evaluator = lambda *given: Timed(evaluator(*given), "evaluator", "grade")  # type: ignore[method-assign]
    commands.use_server = lambda layout: timed("server", timed("server", use_server)(layout))
    object.__setattr__(UPDATE, "make", update)
    try:
        yield
    finally:
        Resources.engine, Resources.evaluator, commands.use_server = engine, evaluator, use_server  # type: ignore[method-assign]
        object.__setattr__(UPDATE, "make", make)


# ---- a part


def part(folder: Path, parts: int) -> None:
    """Seconds of a scripted round of many parts, with Prefect and without."""
    overrides = [f"problems.count={parts}", f"rounds.problems_per_round={parts}", "parts.problems_per_part=1"]
    command = {"store": str(folder / "flow"), "preset": "scripted-duo", "overrides": overrides, "rounds": 1}
    told = json.loads(_output([sys.executable, __file__, "--measure", json.dumps(command)]).splitlines()[-1])
    flow = told["rounds"][0]["all"]
    plain, made = _plain(folder / "plain", overrides)
    print(f"\na scripted round of {made} parts: {flow:.2f} s as task runs, {plain:.2f} s called one by one")
    print(f"a part's own cost: {1e3 * flow / made:.1f} ms, of which Prefect {1e3 * (flow - plain) / made:.1f} ms")
    print(f"flow / plain calls {flow / plain:6.1f} x")


def _plain(store: Path, overrides: list[str]) -> tuple[float, int]:
    from bench.iteration import bench_round, iteration
    from configs.load import load_config
    from stages.base.resources import Resources

    resolver = bench_round(store, load_config("scripted-duo", overrides))
    started = time.perf_counter()
    reports, _ = iteration(resolver, Resources())
    return time.perf_counter() - started, sum(report.parts_made for report in reports)


def _output(command: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    environment |= {"PYTHONPATH": path, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[:4000])
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
