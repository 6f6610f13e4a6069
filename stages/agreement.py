"""Whether an engine samples from what the trainer trains: the same tokens scored by both.

    gap_t = | log pi_engine(a_t | h, a_<t)  -  log pi_trainer(a_t | h, a_<t) |

The engine writes a few short messages under the policy version in use, at the run's temperature; the trainer scores
exactly those tokens. Another model, another adapter, log-probs before temperature: each shows as a gap of tenths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from configs.schema import Config
from stages.engines.protocol import ChatMessage, Engine, Request, SamplingParameters
from stages.learners.protocol import Learner, TrainRow
from store.identity import seed_from
from store.policies import PolicyVersion

PROBE = (
    "Tom has 3 apples and buys 4 more. How many apples does Tom have?",
    "Name three colours of the rainbow.",
    "Write a sentence about a river in spring, and one about the sea.",
    "What is 17 plus 25? Explain in a few words.",
)
"""Fixed, so that two machines are asked the same."""
_NEW_TOKENS = 24
_SEEDS = 2


@dataclass(frozen=True)
class Agreement:
    """How far engine and trainer are apart, over all probed tokens of all policies."""

    tokens: int
    mean_gap: float
    """Nats per token."""
    largest_gap: float


def agreement(config: Config, engine: Engine, learner: Learner, policy: PolicyVersion) -> Agreement:
    """Probe both under one policy version. Raises what the engine or the learner raises."""
    requests = probe_requests(config, engine, sorted(policy.adapters))
    rows, behaviour = [], []
    for request, completions in zip(requests, engine.generate(requests), strict=True):
        for seed, completion in zip(request.seeds, completions, strict=True):
            row = TrainRow(
                f"probe-{request.policy}-{seed}",
                request.policy,
                request.prompt_ids,
                completion.token_ids,
                request.sampling.temperature,
            )
            rows.append(row)
            behaviour.append(completion.logprobs)
    learner.load(policy, 0)
    learner.prepare(rows)
    return measured(_scores(learner, rows), behaviour)


def probe_requests(config: Config, engine: Engine, policies: Sequence[str]) -> list[Request]:
    """The probe, for every policy: untruncated, because a trainer scores the whole distribution."""
    sampling = SamplingParameters(config.sampling.temperature, 1.0, 0, _NEW_TOKENS)
    prompts = [tuple(engine.codec.encode([ChatMessage("user", text)])) for text in PROBE]
    return [
        Request(prompt, tuple(seed_from("probe", place, k) for k in range(_SEEDS)), sampling, policy)
        for policy in policies
        for place, prompt in enumerate(prompts)
    ]


def measured(trainer: Sequence[Sequence[float]], engine: Sequence[Sequence[float]]) -> Agreement:
    """The gaps between two sets of log-probs of the same tokens."""
    gaps = [
        abs(ours - theirs)
        for mine, others in zip(trainer, engine, strict=True)
        for ours, theirs in zip(mine, others, strict=True)
    ]
    return Agreement(len(gaps), fmean(gaps), max(gaps))


def _scores(learner: Learner, rows: Sequence[TrainRow]) -> list[list[float]]:
    """A policy at a time: a micro-batch holds one policy's rows."""
    found: dict[str, list[float]] = {}
    for policy in dict.fromkeys(row.policy for row in rows):
        for batch in learner.batches([row for row in rows if row.policy == policy], max_tokens=1024):
            for row, scored in zip(batch, learner.score(batch), strict=True):
                found[row.decision_id] = scored.logprob_T.detach().tolist()
    return [found[row.decision_id] for row in rows]
