"""Seconds and memory of one optimiser step: alternatives packed behind their shared context, beside plain padded ones.

    python bench/update.py [--states 4] [--repeat 3] [--dtype auto] [--device auto] [--threads 2] [--max-tokens 1024]
        [--only 110x8] [--ways plain packed] [--rows 8]

Four ways of the same step (forward, backward, clipping, AdamW) on SmolLM2 with LoRA adapters:

    plain           PEFT as it comes; one alternative a row, the K of a context a pass (or --rows), all logits
    plain, few      the same with logits only where a sampled token is predicted
    padded          update.layout = "padded": the same rows through C3's products and log-probs
    packed          update.layout = "packed": one trie of tokens

They are run in turn, so that what else the machine does falls on all alike. "s" is a step's time by the clock, "CPU s" what
the processor spent on it (beside other work the steadier of the two, most of all with one thread), both medians; "times" is
plain's over it, the median over the turns. "share" is the products of the packed step (the least there are to do) over the
time, as a share of what this machine reaches on square matrices in the same dtype (1024 x 1024 on a CPU, both in CPU
seconds; 8192 x 8192 on a GPU, which is waited for before the clock is read).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from configs.engines import TransformersEngineConfig
from configs.training import PolicyConfig, UpdateConfig
from stages.learners.lora.learner import LoraLearner
from stages.learners.protocol import TrainRow
from stages.learners.scoring.packing import pack
from stages.models.identity import model_path
from stages.runtime.determinism import deterministic
from stages.runtime.device import resolved_device, resolved_dtype
from store.artifacts.policy_version import initial_policy

CASES = ((110, 4), (110, 8), (512, 8))
"""Tokens of the context, alternatives of each."""
MESSAGE = (12, 24)
SQUARE: Mapping[str, int] = {"cpu": 1024, "cuda": 8192}
"""Matrices that fill the device."""

WAYS = ("plain", "plain, few", "padded", "packed")
Way = Callable[[list[TrainRow]], int]
"""A step on these rows; how many tokens went through the model, padding included."""


def main() -> None:
    """Run every case and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--states", type=int, default=4)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--dtype", default="auto")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--threads", type=int, default=TransformersEngineConfig().threads)
    arguments.add_argument("--max-tokens", type=int, default=UpdateConfig().max_tokens)
    arguments.add_argument("--rows", type=int, help="of a plain pass; a GPU wants more than one context's")
    arguments.add_argument("--only", choices=[f"{context}x{siblings}" for context, siblings in CASES])
    arguments.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    chosen = arguments.parse_args()
    engine = TransformersEngineConfig(dtype=chosen.dtype, device=chosen.device, threads=chosen.threads)
    torch.set_num_threads(engine.threads)
    dtype, device = resolved_dtype(engine.dtype, engine.device), resolved_device(engine.device)
    speed = {name: product_speed(name, device) for name in ("bfloat16", "float32")}
    print(
        f"products of {SQUARE[device]}^3: bfloat16 {speed['bfloat16']:.1f}, float32 {speed['float32']:.1f} GFLOP a second; "
        f"here: {_name(device)}, {dtype}, {engine.threads} thread(s), {chosen.states} states, {chosen.max_tokens} tokens a "
        f"micro-batch; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    model_dir, policy = model_path(engine), PolicyConfig()
    plain = Plain(model_dir, dtype, device, policy)
    learners = {
        layout: LoraLearner(model_dir, dtype, engine.threads, {"team": policy}, layout, device)  # type: ignore[arg-type]
        for layout in ("padded", "packed")
    }
    for learner in learners.values():
        learner.load(initial_policy("base", ["team"]), seed=0)
    print(f"{'case':>7}  {'way':<12}{'s':>8}{'times':>7}{'CPU s':>7}{'times':>7}{'MiB':>7}{'tokens':>8}{'share':>7}")
    for context, siblings in CASES:
        case = f"{context}x{siblings}"
        if chosen.only not in (None, case):
            continue
        rows = states(chosen.states, context, siblings)
        ways: dict[str, Way] = {
            "plain": lambda rows, size=chosen.rows or siblings: plain.step(rows, size, few=False),
            "plain, few": lambda rows, size=chosen.rows or siblings: plain.step(rows, size, few=True),
            "padded": lambda rows: step(learners["padded"], rows, chosen.max_tokens),
            "packed": lambda rows: step(learners["packed"], rows, chosen.max_tokens),
        }
        ways = {name: way for name, way in ways.items() if name in {"plain", *chosen.ways}}
        work = least_products(learners["packed"], rows)
        measured = in_turn(ways, rows, chosen.repeat, device)
        for name, way in measured.items():
            seconds, cpu = statistics.median(way.seconds), statistics.median(way.cpu)
            share = work / (cpu if device == "cpu" else seconds) / 1e9 / speed[dtype]
            print(
                f"{case:>7}  {name:<12}{seconds:>8.3f}{_times(measured['plain'].seconds, way.seconds):>7.2f}{cpu:>7.2f}"
                f"{_times(measured['plain'].cpu, way.cpu):>7.2f}{way.mib:>7.0f}{way.tokens:>8}{share:>7.1%}",
                flush=True,
            )
    print(f"load {os.getloadavg()[0]:.1f}")


def _times(plain: list[float], way: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(plain, way, strict=True))


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def _wait(device: str) -> None:
    """Until everything that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def product_speed(dtype: str, device: str) -> float:
    """GFLOP of matrix products a second (on a CPU: a CPU second), the median of some after one to warm up."""
    size = SQUARE[device]
    one, other = (torch.randn(size, size, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: list[float] = []
    torch.mm(one, other)
    while len(seconds) < 9 and sum(seconds) < 5:
        _wait(device)
        started = clock()
        torch.mm(one, other)
        _wait(device)
        seconds.append(clock() - started)
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


def step(learner: LoraLearner, rows: list[TrainRow], max_tokens: int) -> int:
    """One step of ours; how many tokens went through the model."""
    optimizer = _optimizer(learner, fused=True)
    optimizer.zero_grad()
    tokens = 0
    for batch in learner.batches(rows, max_tokens):
        with deterministic():
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


@dataclass
class Measured:
    """One way of a step, turn by turn."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    mib: float = 0.0
    """The most above where it began."""
    tokens: int = 0


def in_turn(ways: dict[str, Way], rows: list[TrainRow], repeat: int, device: str) -> dict[str, Measured]:
    """Every way to warm up (on a CPU on one row), then `repeat` times on all."""
    for way in ways.values():
        way(rows if device == "cuda" else rows[:1])
    found = {name: Measured() for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            with Memory(device) as memory:
                _wait(device)
                started, cpu_started = time.perf_counter(), time.process_time()
                found[name].tokens = way(rows)
                _wait(device)
                found[name].seconds.append(time.perf_counter() - started)
                found[name].cpu.append(time.process_time() - cpu_started)
            found[name].mib = max(found[name].mib, memory.most)
    return found


class Memory:
    """The most MiB that the process (or the GPU) holds above what it held at the start, looked at every 5 ms."""

    def __init__(self, device: str) -> None:
        self._gpu = device == "cuda"

    def __enter__(self) -> Memory:
        _trim()
        self._stop, self.most, self._start = threading.Event(), 0.0, self._held()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._gpu:
            self.most = torch.cuda.max_memory_allocated() / 2**20 - self._start

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, self._held() - self._start)

    def _held(self) -> float:
        if self._gpu:
            return torch.cuda.memory_allocated() / 2**20
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def _trim() -> None:
    """Hand freed memory back to the system (glibc), else a step is counted from what the one before it left."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


if __name__ == "__main__":
    sys.exit(main())
