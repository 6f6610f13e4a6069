"""Rows per second of the advantages stage, Parquet to Parquet, beside numpy and a loop of small torch tensors.

    python bench/advantages.py [--states 500000] [--alternatives 8] [--replays 4] [--folder DIR] [--estimator c3]

16 M replays by default. numpy has the rewards in memory as a dense array already; the torch loop is one small tensor per
state, measured on a part and scaled. The stage reads and joins ids, writes its table, and its peak memory is printed.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store.artifacts import Artifact
from store.credit import write_advantages
from store.schemas import DECISIONS, REPLAYS, REWARDS

PART_STATES = 25_000
BYTES_PER_REPLAY = 60
"""On disk, with its reward and its share of an alternative."""

SAMPLES = {
    # ids are hashes, as real ones are; a row of an alternative j, or of a replay i of one
    "decisions": """
        select substr(md5('d' || j), 1, 12) as decision_id, substr(md5('s' || j // $alternatives), 1, 12) as state_id,
               'same' as context_id, 'p' || lpad((j // $alternatives)::varchar, 9, '0') as problem_id, 'actor' as role,
               1 as depth, [(j % $alternatives)::int] as path, (j % $alternatives)::int as draw,
               j % $alternatives = 0 as is_logged, 'frozen' as policy_version
        from range($first * $alternatives, $last * $alternatives) as t(j)""",
    "replays": """
        select substr(md5('e' || i), 1, 12) as episode_id, substr(md5('d' || i // $replays), 1, 12) as alternative_id,
               'p' || lpad((i // $replays // $alternatives)::varchar, 9, '0') as problem_id,
               [alternative_id] as decision_ids, [alternative_id] as credited
        from range($first * $alternatives * $replays, $last * $alternatives * $replays) as t(i)""",
    "rewards": """
        select substr(md5('e' || i), 1, 12) as episode_id,
               'p' || lpad((i // $replays // $alternatives)::varchar, 9, '0') as problem_id,
               (hash(i) % 2)::double as reward
        from range($first * $alternatives * $replays, $last * $alternatives * $replays) as t(i)""",
}


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
        subprocess.run(command, check=True)
        if count <= 20_000_000:
            beside(chosen)


def make_samples(chosen: argparse.Namespace) -> float:
    """The stored tables of so many states, in parts."""
    started = time.perf_counter()
    schemas = {"decisions": DECISIONS, "replays": REPLAYS, "rewards": REWARDS}
    connection = duckdb.connect()
    for index, first in enumerate(range(0, chosen.states, PART_STATES)):
        part = chosen.folder / f"part-{index:05d}"
        part.mkdir()
        for table, text in SAMPLES.items():
            last = min(first + PART_STATES, chosen.states)
            given = {"first": first, "last": last, "alternatives": chosen.alternatives, "replays": chosen.replays}
            rows = connection.sql(text, params={k: v for k, v in given.items() if f"${k}" in text}).to_arrow_table()
            fields = [field for field in schemas[table] if field.name in rows.column_names]
            typed = rows.select([field.name for field in fields]).cast(pa.schema(fields))
            pq.write_table(typed, part / f"{table}.parquet", compression="zstd")
    connection.close()
    return time.perf_counter() - started


def credit(chosen: argparse.Namespace) -> None:
    """The stage's work, timed, and this process's peak memory."""
    parts = [{"name": path.name} for path in sorted(chosen.folder.glob("part-*"))]
    artifact = Artifact("bench", "made", chosen.folder, {"parts": parts, "ledger": {}})
    target = chosen.folder / "advantages.parquet"
    started, busy = time.perf_counter(), time.process_time()
    write_advantages([artifact], chosen.estimator, chosen.normalisation, "state", target)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    count = chosen.states * chosen.alternatives * chosen.replays
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert pq.read_metadata(target).num_rows == chosen.states * chosen.alternatives
    print(
        f"the stage, Parquet to Parquet {seconds:8.2f} s {count / seconds / 1e6:8.1f} M replays/s, "
        f"{busy:.1f} CPU s, peak {peak:.1f} GiB"
    )


def beside(chosen: argparse.Namespace) -> None:
    """numpy over the dense array, and one small torch tensor per state."""
    shape = (chosen.states, chosen.alternatives, chosen.replays)
    reward_SAR = np.random.default_rng(0).integers(0, 2, shape).astype(np.float64)
    started = time.perf_counter()
    mean_SA = reward_SAR.mean(-1)
    advantage_SA = mean_SA - (mean_SA.sum(-1, keepdims=True) - mean_SA) / (chosen.alternatives - 1)
    report("numpy, in memory", reward_SAR.size, time.perf_counter() - started)
    assert np.allclose(advantage_SA.sum(-1), 0)
    import torch

    few = reward_SAR[: min(20_000, chosen.states)]
    started = time.perf_counter()
    for reward_AR in few:
        mean_A = torch.tensor(reward_AR).mean(-1)
        mean_A - (mean_A.sum() - mean_A) / (chosen.alternatives - 1)
    seconds = (time.perf_counter() - started) * chosen.states / len(few)
    report("a loop of torch tensors", reward_SAR.size, seconds)


def report(name: str, replays: int, seconds: float) -> None:
    """One line."""
    print(f"{name:<29} {seconds:8.2f} s {replays / seconds / 1e6:8.1f} M replays/s")


if __name__ == "__main__":
    main()
