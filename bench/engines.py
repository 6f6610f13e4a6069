"""Tokens per second of a stage against a bare call of the same engine, and what the tree of draws saves.

    python bench/engines.py [--preset arithmetic-duo] [--problems 16] [--set engine.kind=vllm ...]

The rollout and sample stages run as in a round, writing their parts; the requests they made are kept. Then the same engine
is called with the same requests and nothing else is done. Both in turn, the first turn not counted (it fills vLLM's prefix
cache); the share is the fastest bare call's time over the fastest stage's. The probe before a round is timed by itself.

The savings are counted, not timed: messages and prompt tokens of the plan, and of independent episodes with as many
terminal evaluations. A prefix is counted once where its engine prefills it once for a call (transformers) or keeps it
(vLLM's prefix cache).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.iteration import bench_round
from configs.load import load_config
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import StepRun
from pipeline.rounds.resolve import StepResolver
from pipeline.steps import ROUND
from stages.base.resources import Resources
from stages.engines.protocol import Completion, Engine, Request
from stages.mismatch.engine_check import ensure_agreement
from store.artifacts.artifact import Artifact, Row
from store.artifacts.policy_version import PolicyVersion

STAGES = ("rollout", "sample")
TURNS = 3
TOKENS = ("new_tokens", "prompt_tokens")


class Recording:
    """The engine, keeping the requests of every call."""

    def __init__(self, engine: Engine) -> None:
        self.alone = self._engine = engine
        self.codec = engine.codec
        self.calls: list[list[Request]] = []

    def use(self, policy: PolicyVersion) -> None:
        """Passed on."""
        self._engine.use(policy)

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        """Kept, and passed on."""
        self.calls.append(list(requests))
        return self._engine.generate(requests, on_message)

    def check_adapters_allowed(self) -> None:
        """Passed on."""
        self._engine.check_adapters_allowed()

    def release_memory(self) -> None:
        """Passed on."""
        self._engine.release_memory()

    def close(self) -> None:
        """Passed on."""
        self._engine.close()


class RecordingResources(Resources):
    """Resources whose engine keeps its requests."""

    recording: Recording | None = None

    def load_engine(self, config: Any) -> Engine:
        """The recording engine, made once."""
        if self.recording is None:
            self.recording = Recording(super().load_engine(config))
        return self.recording


def main() -> None:
    """Run and print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--preset", default="arithmetic-duo")
    arguments.add_argument("--problems", type=int, default=16)
    arguments.add_argument("--set", action="append", default=[])
    chosen = arguments.parse_args()
    config = load_config(
        chosen.preset,
        [f"rounds.problems_per_round={chosen.problems}", f"parts.problems_per_part={chosen.problems}", *chosen.set],
    )
    with tempfile.TemporaryDirectory() as folder:
        resolver, resources = bench_round(Path(folder), config), RecordingResources()
        resources.engine(resolver.round.config, resolver.policy_before)
        artifacts: dict[str, Artifact] = {}
        print(f"{config.engine.kind}, {chosen.preset}, {chosen.problems} problems")
        started = time.perf_counter()
        ensure_agreement(resources, resolver.round.config, resolver.policy_before)
        print(f"probe, the trainer's loading included: {time.perf_counter() - started:.1f} s\n")
        print(f"{'stage':<10}{'new tokens':>12}{'stage tok/s':>14}{'bare tok/s':>14}{'share':>9}")
        for step in ROUND.until("sample"):
            if step.name in STAGES:
                timed(resolver, step, resources, artifacts)
            else:
                made(resolver, step, resources, artifacts)
        savings(resolver, artifacts)
        resources.close()


def timed(resolver: StepResolver, step: Any, resources: RecordingResources, artifacts: dict[str, Artifact]) -> None:
    """One stage and its requests alone, in turn."""
    recording = resources.recording
    assert recording is not None
    stage, bare, tokens = [], [], 0
    for _ in range(TURNS):
        recording.calls.clear()
        started = time.perf_counter()
        made(resolver, step, resources, artifacts)
        stage.append(time.perf_counter() - started)
        calls = [list(call) for call in recording.calls]
        started = time.perf_counter()
        tokens = sum(len(said.token_ids) for call in calls for row in recording.alone.generate(call) for said in row)
        bare.append(time.perf_counter() - started)
    stage_seconds, bare_seconds = min(stage[1:]), min(bare[1:])
    print(
        f"{step.name:<10}{tokens:>12,}{tokens / stage_seconds:>14,.1f}{tokens / bare_seconds:>14,.1f}"
        f"{bare_seconds / stage_seconds:>9.1%}"
    )


def made(resolver: StepResolver, step: Any, resources: Resources, artifacts: dict[str, Artifact]) -> None:
    """One stage without Prefect, beside what is there of it."""
    state = resolver.resolve(step, artifacts)
    state = resolver.copy(state) if state.artifact else state
    artifacts[step.name] = StepRun(resolver, state, ExecutionContext(resources=resources)).make_here()


def savings(resolver: StepResolver, artifacts: dict[str, Artifact]) -> None:
    """The plan's messages and prompt tokens against those of independent episodes at the same budget."""
    rows = [row for stage in STAGES for row in artifacts[stage].rows("decisions")]
    roles = len(resolver.round.config.roles)
    budget = resolver.round.config.plan.budget * resolver.round.config.rounds.problems_per_round
    # an independent episode has one message of each role, with prompts and answers as long as the plan's on average
    alone = {name: budget * sum(_mean(rows, depth, name) for depth in range(1, roles + 1)) for name in TOKENS}
    once = sum({row["context_id"]: row["prompt_tokens"] for row in rows}.values())
    plain = sum(row["prompt_tokens"] for row in rows)
    print(f"\n{budget} terminal evaluations{'episodes':>16}{'this plan':>14}{'saved':>9}")
    for name, theirs, ours in (
        ("messages", budget * roles, len(rows)),
        ("new tokens", alone["new_tokens"], sum(row["new_tokens"] for row in rows)),
        ("prompt tokens", alone["prompt_tokens"], plain),
        ("prompts prefilled once", alone["prompt_tokens"], once),
    ):
        print(f"{name:<24}{theirs:>16,.0f}{ours:>14,}{1 - ours / theirs:>9.1%}")


def _mean(rows: Sequence[Row], depth: int, name: str) -> float:
    return fmean(row[name] for row in rows if row["depth"] == depth)


if __name__ == "__main__":
    main()
