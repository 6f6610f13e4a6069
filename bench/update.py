"""Seconds and memory of one optimiser step: alternatives packed behind their shared context, beside plain padded ones.

    python bench/update.py [--states 4] [--repeat 3] [--dtype auto]

Four ways of the same step (forward, backward, clipping, AdamW) on SmolLM2 with LoRA adapters:

    plain           PEFT as it comes; one alternative a row, K rows a pass, all logits
    plain, few      the same with logits only where a sampled token is predicted
    padded          update.layout = "padded": the same rows through C3's products and log-probs
    packed          update.layout = "packed": one trie of tokens

They are run in turn, so that what else the machine does falls on all alike. "share" is the products of the packed step (the
least there are to do) over the time, as a share of what this machine reaches on 2048 x 2048 matrices in the same dtype.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from configs.schema import PolicyConfig, TransformersEngineConfig
from stages.engines.hardware import resolved_device, resolved_dtype
from stages.engines.make import resolved_model
from stages.learners.lora import LoraLearner
from stages.learners.packing import pack
from stages.learners.protocol import TrainRow
from store.policies import initial_policy

CASES = ((110, 4), (110, 8), (512, 8))
"""Tokens of the context, alternatives of each."""
MESSAGE = (12, 24)
MAX_TOKENS = 1024


def main() -> None:
    """Run every case and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--states", type=int, default=4)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--dtype", default="auto")
    arguments.add_argument("--device", default="auto")
    chosen = arguments.parse_args()
    engine = TransformersEngineConfig(dtype=chosen.dtype, device=chosen.device)
    torch.set_num_threads(engine.threads)
    dtype, device = resolved_dtype(engine.dtype, engine.device), resolved_device(engine.device)
    speed = {name: product_speed(name, device) for name in ("bfloat16", "float32")}
    print(
        f"products of 2048^3: bfloat16 {speed['bfloat16']:.0f}, float32 {speed['float32']:.0f} GFLOP/s; here: {dtype}"
    )
    model_dir, policy = resolved_model(engine), PolicyConfig()
    plain = Plain(model_dir, dtype, device, policy)
    learners = {
        layout: LoraLearner(model_dir, dtype, engine.threads, {"team": policy}, layout, device)  # type: ignore[arg-type]
        for layout in ("padded", "packed")
    }
    for learner in learners.values():
        learner.load(initial_policy("base", ["team"]), seed=0)
    print(f"{'context':>7} {'K':>2}  {'way':<12}{'s a step':>9}{'times':>7}{'MiB':>7}{'tokens':>8}{'share':>7}")
    for context, siblings in CASES:
        rows = states(chosen.states, context, siblings)
        ways: dict[str, Callable[[], int]] = {
            "plain": lambda rows=rows, size=siblings: plain.step(rows, size, few=False),
            "plain, few": lambda rows=rows, size=siblings: plain.step(rows, size, few=True),
            "padded": lambda rows=rows: step(learners["padded"], rows),
            "packed": lambda rows=rows: step(learners["packed"], rows),
        }
        work = least_products(learners["packed"], rows)
        timed = in_turn(ways, chosen.repeat)
        for name, (seconds, mib, tokens) in timed.items():
            times = timed["plain"][0] / seconds
            share = work / seconds / 1e9 / speed[dtype]
            print(
                f"{context:>7} {siblings:>2}  {name:<12}{seconds:>9.2f}{times:>7.2f}{mib:>7.0f}{tokens:>8}{share:>7.1%}"
            )


def product_speed(dtype: str, device: str, size: int = 2048) -> float:
    """GFLOP/s of one matrix product, the median of some."""
    one, other = (torch.randn(size, size, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        float((one @ other)[0, 0])
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds) / 1e9


def states(count: int, context: int, siblings: int) -> list[TrainRow]:
    """Random contexts that share nothing, and messages of 12 to 24 tokens: only siblings share anything."""
    draw = np.random.default_rng(0)
    rows = []
    for state in range(count):
        seen = tuple(draw.integers(5, 40000, context).tolist())
        for sibling in range(siblings):
            said = tuple(draw.integers(5, 40000, draw.integers(MESSAGE[0], MESSAGE[1] + 1)).tolist())
            rows.append(TrainRow(f"{state}.{sibling}", "team", seen, said, 1.0))
    return rows


def least_products(learner: LoraLearner, rows: list[TrainRow]) -> float:
    """Floating-point operations of the linear layers: forward, and back to their inputs; the weights are frozen."""
    base: Any = learner._model.get_base_model()
    weights = sum(
        m.weight.numel() for name, m in base.named_modules() if name.endswith("_proj") and hasattr(m, "weight")
    )
    adapters = sum(parameter.numel() for _, parameter in learner.named_parameters("team"))
    head = base.get_output_embeddings().weight.numel()
    packed = pack(rows)
    places = len(np.unique(np.concatenate(packed.predicting)))
    return float(len(packed.token_T) * (4 * weights + 6 * adapters) + places * 4 * head)


def step(learner: LoraLearner, rows: list[TrainRow]) -> int:
    """One step of ours; how many tokens went through the model."""
    optimizer = _optimizer(learner, fused=True)
    optimizer.zero_grad()
    tokens = 0
    for batch in learner.batches(rows, MAX_TOKENS):
        torch.cat([scored.logprob_T for scored in learner.score(batch)]).sum().backward()
        fed = [len(row.context_ids) + len(row.token_ids) - 1 for row in batch]
        tokens += len(pack(batch).token_T) if learner._scorer._layout == "packed" else max(fed) * len(fed)
    torch.nn.utils.clip_grad_norm_([parameter for _, parameter in learner.named_parameters("team")], 1.0)
    optimizer.step()
    return tokens


class Plain:
    """What one writes first."""

    def __init__(self, model_dir: Path, dtype: str, device: str, policy: PolicyConfig) -> None:
        base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).to(device)
        config = LoraConfig(
            r=policy.lora_rank, lora_alpha=policy.lora_alpha, target_modules=list(policy.target_modules)
        )
        self.model: Any = get_peft_model(base, config)
        self.device = device
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0)

    def step(self, rows: list[TrainRow], size: int, few: bool) -> int:
        """One step, `size` rows a pass; how many tokens went through the model, padding included."""
        self.optimizer.zero_grad()
        tokens = 0
        for first in range(0, len(rows), size):
            batch = rows[first : first + size]
            width = max(len(row.context_ids) + len(row.token_ids) for row in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for index, row in enumerate(batch):
                whole = row.context_ids + row.token_ids
                ids[index, : len(whole)], mask[index, : len(whole)] = torch.tensor(whole), 1
            ids, mask = ids.to(self.device), mask.to(self.device)
            kept = width - len(batch[0].context_ids) + 1 if few else 0
            logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=kept).logits[:, :-1]
            spoken = ids[:, -logits.shape[1] :]
            logprob = logits.log_softmax(-1, dtype=torch.float32).gather(-1, spoken[..., None])[..., 0]
            place = torch.arange(width)[-logits.shape[1] :].to(self.device)
            real = (place >= len(batch[0].context_ids)) & mask[:, -logits.shape[1] :].bool()
            logprob[real].sum().backward()
            tokens += ids.numel()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return tokens


_OPTIMIZERS: dict[int, torch.optim.Optimizer] = {}


def _optimizer(learner: LoraLearner, fused: bool) -> torch.optim.Optimizer:
    parameters = [parameter for _, parameter in learner.named_parameters("team")]
    return _OPTIMIZERS.setdefault(id(learner), torch.optim.AdamW(parameters, lr=0.0, fused=fused))


def in_turn(ways: dict[str, Callable[[], int]], repeat: int) -> dict[str, tuple[float, float, int]]:
    """Way -> the median of its seconds, the most MiB above where it began, tokens; one run each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    mib, tokens = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
    for turn in range(repeat + 1):
        for name, way in ways.items():
            with Memory() as memory:
                started = time.perf_counter()
                tokens[name] = way()
                took = time.perf_counter() - started
            mib[name] = max(mib[name], memory.most)
            if turn:
                seconds[name].append(took)
    return {name: (statistics.median(seconds[name]), mib[name], tokens[name]) for name in ways}


class Memory:
    """The most MiB that the process (or the GPU) holds above what it held at the start, looked at every 5 ms."""

    def __enter__(self) -> Memory:
        self._stop, self.most, self._start = threading.Event(), 0.0, self._held()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if torch.cuda.is_available():
            self.most = torch.cuda.max_memory_allocated() / 2**20 - self._start

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, self._held() - self._start)

    def _held(self) -> float:
        if torch.cuda.is_available():
            return torch.cuda.memory_allocated() / 2**20
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    sys.exit(main())
