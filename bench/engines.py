"""Tokens per second of a stage against a bare call of the same engine, and what the tree of draws saves.

    python bench/engines.py [--preset arithmetic-duo] [--problems 16] [--set engine.kind=vllm ...]

First the rollout and sample stages run as in a round, writing their parts; the requests they made are kept. Then the same
engine is called with the same requests and nothing else is done. The share is the bare call's time over the stage's.

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
from typing import Any

from configs.load import load_config
from pipeline.runner import Limits, make_part, make_step
from pipeline.scope import Scope
from pipeline.steps import ROUND
from stages.engines.protocol import Completion, Engine, Request
from stages.tools import Tools
from store import catalog
from store.artifacts import Artifact, open_writer
from store.layout import Layout
from store.policies import PolicyVersion

STAGES = ("rollout", "sample")


class Recording:
    """The engine, keeping the requests of every call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
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

    def make_room(self) -> None:
        """Passed on."""
        self._engine.make_room()

    def close(self) -> None:
        """Passed on."""
        self._engine.close()


class RecordingTools(Tools):
    """Tools whose engine keeps its requests."""

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
        chosen.preset, [f"rounds.problems={chosen.problems}", f"parts.problems={chosen.problems}", *chosen.set]
    )
    with tempfile.TemporaryDirectory() as folder:
        catalog.record_config(Layout(Path(folder)), "bench", 1, config.model_dump(mode="json"))
        scope, tools = Scope(Path(folder), "bench", 1), RecordingTools()
        engine = tools.engine(scope.config, scope.policy)
        artifacts: dict[str, Artifact] = {}
        print(f"{config.engine.kind}, {chosen.preset}, {chosen.problems} problems")
        print(f"{'stage':<10}{'new tokens':>12}{'stage tok/s':>14}{'bare tok/s':>14}{'share':>9}")
        for step in ROUND[:4]:
            if step.name in STAGES:
                timed(scope, step, tools, artifacts, engine)
            else:
                made(scope, step, tools, artifacts)
        savings(scope, artifacts)
        tools.close()


def timed(scope: Scope, step: Any, tools: RecordingTools, artifacts: dict[str, Artifact], engine: Engine) -> None:
    """One stage, and its requests once more. The bare call goes first and last, and the faster counts for it."""
    recording = tools.recording
    assert recording is not None
    recording.calls.clear()
    started = time.perf_counter()
    made(scope, step, tools, artifacts)
    stage_seconds = time.perf_counter() - started
    calls = [list(call) for call in recording.calls]
    bare = []
    for _ in range(2):
        started = time.perf_counter()
        tokens = sum(len(said.token_ids) for call in calls for row in engine.generate(call) for said in row)
        bare.append(time.perf_counter() - started)
    print(
        f"{step.name:<10}{tokens:>12,}{tokens / stage_seconds:>14,.1f}{tokens / min(bare):>14,.1f}"
        f"{min(bare) / stage_seconds:>9.1%}"
    )


def made(scope: Scope, step: Any, tools: Tools, artifacts: dict[str, Artifact]) -> None:
    """One stage without Prefect."""
    look = scope.look(step, artifacts)
    with open_writer(scope.layout, step.stage.name, look.key) as writer:
        artifacts[step.name], _ = make_step(
            writer, look, lambda parts: [make_part(writer, look, part, tools, Limits()) for part in parts]
        )


def savings(scope: Scope, artifacts: dict[str, Artifact]) -> None:
    """The plan's messages and prompt tokens against those of independent episodes at the same budget."""
    rows = [row for stage in STAGES for row in artifacts[stage].rows("decisions")]
    depth = len(scope.config.roles)
    budget = scope.config.plan.budget * scope.config.rounds.problems
    prompt_of: dict[int, list[int]] = {}
    for row in rows:
        prompt_of.setdefault(row["depth"], []).append(row["prompt_tokens"])
    # an independent episode has one message of each role, with prompts as long as the plan's on average
    alone = sum(budget * sum(found) / len(found) for found in prompt_of.values())
    once = sum({row["context_id"]: row["prompt_tokens"] for row in rows}.values())
    plain = sum(row["prompt_tokens"] for row in rows)
    print(f"\n{budget} terminal evaluations{'episodes':>16}{'this plan':>14}{'saved':>9}")
    for name, theirs, ours in (
        ("messages", budget * depth, len(rows)),
        ("prompt tokens", alone, plain),
        ("prompts prefilled once", alone, once),
    ):
        print(f"{name:<24}{theirs:>16,.0f}{ours:>14,}{1 - ours / theirs:>9.1%}")


if __name__ == "__main__":
    main()
