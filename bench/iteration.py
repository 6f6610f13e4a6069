"""Seconds of one iteration, split by stage, beside a plain loop that does the same work.

    python bench/iteration.py [--problems 16] [--preset arithmetic-duo] [--set engine.device=cuda] [--times 1]

The plain loop is what one writes first: padded Hugging Face `generate` with the adapter unmerged, every context prefilled
for every sample, then one padded forward and backward per alternative with all logits, twice (the old log-probs first).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from configs.load import load_config
from configs.schema import Config
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import RoundRunner, StepReport
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.round import load_round
from pipeline.steps import ROUND
from stages.base.resources import Resources
from store.artifacts.artifact import Artifact
from store.disk.layout import Layout
from store.runs.records import RoundRef, record_config


def main() -> None:
    """Run both and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--problems", type=int, default=16)
    arguments.add_argument("--preset", default="arithmetic-duo")
    arguments.add_argument("--set", action="append", default=[], help="an override, as c3 takes it")
    arguments.add_argument("--times", type=int, default=1, help="one after another in one process: the first warms up")
    chosen = arguments.parse_args()
    config = load_config(chosen.preset, [f"rounds.problems_per_round={chosen.problems}", *chosen.set])
    for _ in range(chosen.times):
        both(config)


def both(config: Config) -> None:
    """An iteration and the plain loop beside it."""
    with tempfile.TemporaryDirectory() as folder:
        resolver = bench_round(Path(folder), config)
        resources = Resources()
        started = time.perf_counter()
        resources.load_engine(resolver.round.config)
        resources.learner(resolver.round.config)
        print(f"model load            {time.perf_counter() - started:8.1f} s   (not counted)")
        reports, artifacts = iteration(resolver, resources)
        for report in reports:
            print(f"{report.name:<22}{report.seconds:8.1f} s   {sum_tokens(report):>8,} tokens")
        ours = sum(report.seconds for report in reports)
        print(f"{'iteration':<22}{ours:8.1f} s")
        resources.close()
        plain = plain_loop(resolver, artifacts)
    for name, seconds in plain.items():
        print(f"plain loop, {name:<10}{seconds:8.1f} s")
    print(f"plain loop / iteration{sum(plain.values()) / ours:8.1f} x")


def bench_round(store: Path, config: Config) -> StepResolver:
    """Record a configuration in an empty store; its first round."""
    record_config(Layout(store), "bench", 1, config.model_dump(mode="json"))
    return StepResolver(load_round(Layout(store), RoundRef("bench", 1)))


def sum_tokens(report: StepReport) -> int:
    """Prompt and new tokens that a step spent."""
    return report.usage.get("prompt_tokens", 0) + report.usage.get("new_tokens", 0)


def iteration(resolver: StepResolver, resources: Resources) -> tuple[list[StepReport], dict[str, Artifact]]:
    """One round without Prefect, so that only the stages are timed."""
    runner = RoundRunner(resolver, ExecutionContext(resources=resources))
    for step in ROUND:
        runner.run(step)
    return runner.reports, runner.artifacts


def plain_loop(resolver: StepResolver, artifacts: dict[str, Artifact]) -> dict[str, float]:
    """The same contexts, numbers of samples and alternatives, the plain way. Seconds of its two halves."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from stages.models.identity import model_path
    from stages.runtime.device import resolved_device, resolved_dtype

    engine: Any = resolver.round.config.engine
    torch.set_num_threads(engine.threads)
    dtype = getattr(torch, resolved_dtype(engine.dtype, engine.device))
    device = resolved_device(engine.device)
    base = AutoModelForCausalLM.from_pretrained(model_path(engine), dtype=dtype).to(device)
    policy = next(iter(resolver.round.config.policies.values()))
    model = get_peft_model(
        base,
        LoraConfig(r=policy.lora_rank, lora_alpha=policy.lora_alpha, target_modules=list(policy.target_modules)),
    )
    contexts = {row["state_id"]: row for row in artifacts["freeze"].rows("contexts")}
    decisions = [row for name in ("rollout", "sample", "replay") for row in artifacts[name].rows("decisions")]
    started = time.perf_counter()
    for role in resolver.round.config.roles:
        mine = [row for row in decisions if row["role"] == role.name]
        prompts = [contexts[row["state_id"]]["token_ids"] for row in mine]
        for first in range(0, len(prompts), 32):
            ids, mask = (tensor.to(device) for tensor in padded(prompts[first : first + 32], left=True))
            model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                max_new_tokens=resolver.round.config.max_new_tokens(role),
                pad_token_id=0,
            )
    if device == "cuda":
        torch.cuda.synchronize()
    sampled = time.perf_counter()
    rows = [(contexts[row["state_id"]]["token_ids"], row["token_ids"]) for row in decisions]
    for with_gradient in (False, True):
        for first in range(0, len(rows), 8):
            batch = rows[first : first + 8]
            with torch.set_grad_enabled(with_gradient):
                whole = [[*context, *message] for context, message in batch]
                ids, mask = (tensor.to(device) for tensor in padded(whole, left=False))
                logprobs = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
                taken = logprobs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
                loss = torch.stack(
                    [taken[i, len(c) - 1 : len(c) + len(m) - 1].mean() for i, (c, m) in enumerate(batch)]
                ).sum()
                if with_gradient:
                    loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"sampling": sampled - started, "update": time.perf_counter() - sampled}


def padded(rows: list[list[int]], left: bool) -> tuple[Any, Any]:
    """Token ids and attention mask of a batch, padded on one side."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return ids, mask


if __name__ == "__main__":
    sys.exit(main())
