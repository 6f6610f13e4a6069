"""Rows per second of the advantages stage, Parquet to Parquet, beside numpy and a loop of small torch tensors.

    python bench/advantages.py [--states 500000] [--alternatives 8] [--replays 4] [--folder DIR] [--estimator c3]

16 M replays by default. numpy has the rewards in memory as a dense array already; the torch loop is one small tensor per
state, measured on a part and scaled. The stage reads and groups ids, writes its table, puts it in place with its sha256,
checks it in SQL and takes the digest of its rows; each of these is printed, and the peak of its memory.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from stages.advantages import ADVANTAGES
from store.artifacts.artifact import Artifact, StageOutput, provisional, write_table
from store.artifacts.schemas import DECISIONS, REWARDS
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.queries.advantages import write_advantages
from store.queries.checks import run_checks

PART_STATES = 25_000
BYTES_PER_REPLAY = 60
"""On disk, with its reward and its share of an alternative."""

IDENTITIES = """
    -- as many ids as there are rows, no two alike, in no order: an odd factor permutes the numbers of 48 bits
    create macro identity(k) as printf('%012x', ((k::hugeint * 201374682317213) % 281474976710656)::bigint);
    -- a round's problems come in no order; the prime is no factor of any number of states up to its size
    create macro problem(s, states) as 'p' || lpad(((s::bigint * 2147483647) % states)::varchar, 9, '0')"""

SAMPLES = {
    # a row of an alternative j, or of a replay i of one
    "decisions": """
        select identity(3 * j) as decision_id, identity(3 * (j // $alternatives) + 1) as state_id, 'same' as context_id,
               problem(j // $alternatives, $states) as problem_id, 'actor' as role, 1 as depth,
               [(j % $alternatives)::int] as path, (j % $alternatives)::int as draw, j % $alternatives = 0 as is_logged,
               'frozen' as policy_version
        from range($first * $alternatives, $last * $alternatives) as t(j)""",
    "rewards": """
        select identity(3 * i + 2) as episode_id, problem(i // $replays // $alternatives, $states) as problem_id,
               [identity(3 * (i // $replays))] as decision_ids, [identity(3 * (i // $replays))] as credited,
               (hash(i) % 2)::double as reward
        from range($first * $alternatives * $replays, $last * $alternatives * $replays) as t(i)""",
}
"""What the stage reads of them. Transcripts and replays it does not open."""


def main() -> None:
    """Make the samples, run the stage in a process of its own, and the two others beside it."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--states", type=int, default=500_000)
    arguments.add_argument("--alternatives", type=int, default=8)
    arguments.add_argument("--replays", type=int, default=4)
    arguments.add_argument("--estimator", default="c3")
    arguments.add_argument("--normalisation", default="none")
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--credit-only", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.credit_only:
        credit(chosen)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        chosen.folder = Path(name)
        count = chosen.states * chosen.alternatives * chosen.replays
        free = shutil.disk_usage(name).free
        if free < 2 * BYTES_PER_REPLAY * count:
            sys.exit(
                f"{name}: {free / 1e9:.0f} GB free; {count:,} replays want {2 * BYTES_PER_REPLAY * count / 1e9:.0f} GB"
            )
        seconds = make_samples(chosen)
        print(f"{count:,} replays, {chosen.states:,} states; made in {seconds:.0f} s (not counted)")
        command = [sys.executable, __file__, "--credit-only", "--folder", name]
        for option in ("states", "alternatives", "replays", "estimator", "normalisation"):
            command += [f"--{option}", str(getattr(chosen, option))]
        stage = measured(command)
        if count <= 20_000_000:
            for other, seconds in beside(chosen).items():
                print(f"the stage / {other:<17} {stage / seconds:8.2f} of its time")


def measured(command: list[str]) -> float:
    """Seconds of the stage in a process of its own: its memory is its own too."""
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(run.stdout, end="", flush=True)
    return float(run.stdout.partition("the stage ")[2].split()[0])


def make_samples(chosen: argparse.Namespace) -> float:
    """The stored tables of so many states, in parts."""
    started = time.perf_counter()
    schemas = {"decisions": DECISIONS, "rewards": REWARDS}
    connection = duckdb.connect()
    connection.execute(IDENTITIES)
    for index, first in enumerate(range(0, chosen.states, PART_STATES)):
        part = chosen.folder / f"part-{index:05d}"
        part.mkdir()
        for table, text in SAMPLES.items():
            last = min(first + PART_STATES, chosen.states)
            given = {name: getattr(chosen, name) for name in ("states", "alternatives", "replays")}
            given |= {"first": first, "last": last}
            rows = connection.sql(text, params={k: v for k, v in given.items() if f"${k}" in text}).to_arrow_table()
            fields = [field for field in schemas[table] if field.name in rows.column_names]
            typed = rows.select([field.name for field in fields]).cast(pa.schema(fields))
            write_table(part / f"{table}.parquet", typed)
    connection.close()
    return time.perf_counter() - started


def credit(chosen: argparse.Namespace) -> None:
    """The stage's work, timed, and this process's peak memory."""
    parts = [
        {"name": path.name, "files": {f"{table}.parquet": {} for table in SAMPLES}}
        for path in sorted(chosen.folder.glob("part-*"))
    ]
    samples = Artifact("bench", "made", chosen.folder, {"parts": parts, "usage": {}})
    planned = {"stage": "sample", "role": "actor", "depth": 1, "messages": chosen.alternatives}
    planned |= {"evaluations": chosen.alternatives * chosen.replays, "alternatives": chosen.alternatives}
    count = chosen.states * chosen.alternatives * chosen.replays
    steps: dict[str, tuple[float, float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started, busy = time.perf_counter(), time.process_time()
        yield
        steps[name] = time.perf_counter() - started, time.process_time() - busy

    def write(folder: Path) -> None:
        with timed("estimator, Parquet to Parquet"):
            target = folder / "advantages.parquet"
            write_advantages([samples], chosen.estimator, chosen.normalisation, "state", target)

    with timed("the stage"), open_writer(Layout(chosen.folder / "store"), "advantages", "bench") as writer:
        with timed("part in place (sha256, sync)"):
            record = writer.write(0, StageOutput(write_files=write), 0.0)
        with timed("SQL checks"):
            own = provisional("advantages", "bench", writer.path, [record])
            run_checks("advantages", ADVANTAGES.tables, [samples, own], [{**planned, "replays": chosen.replays}])
        with timed("digest of the rows, manifest"):
            made = writer.finish([record], {})
    assert made.manifest["tables"]["advantages"]["rows"] == chosen.states * chosen.alternatives
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for name, (seconds, busy) in steps.items():
        print(f"{name:<31}{seconds:8.2f} s {count / seconds / 1e6:8.1f} M replays/s {busy:8.1f} CPU s")
    print(f"peak {peak:.1f} GiB")


def beside(chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds of numpy over the dense array, and of one small torch tensor per state."""
    shape = (chosen.states, chosen.alternatives, chosen.replays)
    reward_SAR = np.random.default_rng(0).integers(0, 2, shape).astype(np.float64)
    started = time.perf_counter()
    mean_SA = reward_SAR.mean(-1)
    advantage_SA = mean_SA - (mean_SA.sum(-1, keepdims=True) - mean_SA) / (chosen.alternatives - 1)
    found = {"numpy, in memory": time.perf_counter() - started}
    assert np.allclose(advantage_SA.sum(-1), 0)
    import torch

    few = reward_SAR[: min(20_000, chosen.states)]
    started = time.perf_counter()
    for reward_AR in few:
        mean_A = torch.tensor(reward_AR).mean(-1)
        mean_A - (mean_A.sum() - mean_A) / (chosen.alternatives - 1)
    found["torch tensor loop"] = (time.perf_counter() - started) * chosen.states / len(few)
    for name, seconds in found.items():
        report(name, reward_SAR.size, seconds)
    return found


def report(name: str, replays: int, seconds: float) -> None:
    """One line."""
    print(f"{name:<31}{seconds:8.2f} s {replays / seconds / 1e6:8.1f} M replays/s")


if __name__ == "__main__":
    main()
