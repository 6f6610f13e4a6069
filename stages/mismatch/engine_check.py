"""Whether an engine samples from what the trainer trains: the same tokens scored by both, before a round depends on it.

    gap_t = | log pi_engine(a_t | h, a_<t)  -  log pi_trainer(a_t | h, a_<t) |

The engine writes a few short messages under the policy version in use, at the run's temperature; the trainer scores
exactly those tokens. Another model, another adapter, log-probs before temperature: each shows as a gap of tenths.

A young adapter moves log-probs by less than bfloat16 rounds them, and a mean hides that. So the untrained model scores the
tokens too: an engine that forgot the adapter is nearer to that than to the trainer, token after token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import fmean, pstdev
from typing import cast

from configs.engines import EngineConfig, VllmServerEngineConfig
from configs.errors import EngineError, EngineUnreachableError
from configs.schema import Config
from stages.base.resources import Resources
from stages.engines.protocol import Engine, Request, SamplingParameters
from stages.engines.registry import make_engine
from stages.learners.identity import coarser_dtype
from stages.learners.protocol import Learner, TrainRow
from stages.learners.registry import keeps_model
from stages.mismatch.logprob_mismatch import mismatch_bound
from stages.models.protocol import ChatMessage
from store.artifacts.policy_version import PolicyVersion
from store.disk.ids import seed_from

PROBE = (
    "Tom has 3 apples and buys 4 more. How many apples does Tom have?",
    "Name three colours of the rainbow.",
    "Write a sentence about a river in spring, and one about the sea.",
    "What is 17 plus 25? Explain in a few words.",
)
"""Fixed, so that two machines are asked the same."""
_NEW_TOKENS = 24
_SEEDS = 4
_STANDARD_ERRORS = 5.0
"""How sure one must be that an engine is nearer to the untrained model: by chance once in three million probes."""


@dataclass(frozen=True)
class Agreement:
    """How far engine and trainer are apart, over all probed tokens of all policies."""

    tokens: int
    mean_mismatch: float
    """Nats per token."""
    largest_mismatch: float
    unadapted: tuple[str, ...] = ()
    """Policies that were trained, but whose tokens the untrained model explains better than the trainer does."""

    def complaint(self, bound: float) -> str | None:
        """Return what is wrong, and its likely causes; None when they agree to within `bound` nats a token."""
        if self.unadapted:
            return (
                f"it samples policy '{self.unadapted[0]}' from the untrained model, not with its adapter (mean gap to the "
                f"trainer {self.mean_mismatch:.3g} nats a token)"
            )
        if not self.mean_mismatch <= bound:
            return (
                f"its log-probs are {self.mean_mismatch:.3g} nats a token from the trainer's on average, past "
                f"update.max_logprob_mismatch = {bound:g}. Likely: another adapter under this one's name, another base model or "
                f"dtype, or log-probs before temperature (--logprobs-mode)"
            )
        return None


def ensure_agreement(resources: Resources, config: Config, policy: PolicyVersion) -> None:
    """Compare before the first message under a policy version: probe the engine (each server), once per process.

    EngineError when one of them disagrees with the trainer, or none can be reached. A server that is down is left to the
    engine, which asks the others. What runs in this process from the same files needs no probe.
    """
    if config.engine.is_checked:
        resources.once(_probed(config, policy), lambda: _insist(resources, config, policy))


def assume_agreement(resources: Resources, config: Config, policy: PolicyVersion) -> None:
    """Take the engine as compared: whoever sent the part has done it."""
    resources.once(_probed(config, policy), lambda: None)


def _probed(config: Config, policy: PolicyVersion) -> tuple[object, ...]:
    return "probed", config.engine, policy.version


def _insist(resources: Resources, config: Config, policy: PolicyVersion) -> None:
    bound = mismatch_bound(config, coarser_dtype(config))
    away: list[EngineUnreachableError] = []
    probed = 0
    for name, opened in _engines(resources, config):
        try:
            with opened() as engine:
                engine.use(policy)
                found = agreement(config, engine, resources.learner(config, beside_engine=keeps_model(config)), policy)
        except EngineUnreachableError as error:
            away.append(error)
            continue
        complaint = found.complaint(bound)
        if complaint:
            raise EngineError(
                f"{name}: {complaint}; nothing was sampled under policy {policy.version}. `c3 doctor` looks again"
            )
        probed += 1
    if not probed:
        raise away[0]


def _engines(resources: Resources, config: Config) -> list[tuple[str, Callable[[], AbstractContextManager[Engine]]]]:
    """Return the process's engine, which stays, or for each server an engine of its own, which is closed."""
    if config.engine.has_servers:
        attempts = cast(VllmServerEngineConfig, config.engine).max_attempts
        return [(name, partial(_alone, one)) for name, one in config.engine.apart(attempts)]
    return [(f"engine {config.engine.kind}", lambda: nullcontext(resources.load_engine(config)))]


@contextmanager
def _alone(config: EngineConfig) -> Iterator[Engine]:
    engine = make_engine(config)
    try:
        yield engine
    finally:
        engine.close()


def agreement(config: Config, engine: Engine, learner: Learner, policy: PolicyVersion) -> Agreement:
    """Probe both under one policy version. Raises what the engine or the learner raises."""
    requests = probe_requests(config, engine, sorted(policy.adapters))
    rows: list[TrainRow] = []
    behaviour: list[Sequence[float]] = []
    for place, (request, completions) in enumerate(zip(requests, engine.generate(requests), strict=True)):
        for seed, completion in zip(request.seeds, completions, strict=True):
            rows.append(
                TrainRow(
                    f"probe-{place}-{seed}",
                    request.policy,
                    request.prompt_ids,
                    completion.token_ids,
                    request.sampling.temperature,
                )
            )
            behaviour.append(completion.logprobs)
    learner.load(policy, 0)
    learner.prepare(rows)
    trainer, untrained = _scores(learner, rows)
    trained = sorted(name for name, adapter in policy.adapters.items() if adapter.directory is not None)
    unadapted = [
        name
        for name in trained
        if nearer_untrained(*(_of(name, rows, scores) for scores in (behaviour, trainer, untrained)))
    ]
    return measured(trainer, behaviour, unadapted)


def probe_requests(config: Config, engine: Engine, policies: Sequence[str]) -> list[Request]:
    """Return the probe, for every policy: untruncated, because a trainer scores the whole distribution."""
    sampling = SamplingParameters(config.sampling.temperature, 1.0, 0, _NEW_TOKENS)
    prompts = [tuple(engine.codec.encode([ChatMessage("user", text)])) for text in PROBE]
    return [
        Request(prompt, tuple(seed_from("engine check", place, k) for k in range(_SEEDS)), sampling, policy)
        for policy in policies
        for place, prompt in enumerate(prompts)
    ]


def measured(
    trainer: Sequence[Sequence[float]], engine: Sequence[Sequence[float]], unadapted: Sequence[str] = ()
) -> Agreement:
    """Return the gaps between two sets of log-probs of the same tokens."""
    logprob_mismatch = [abs(ours - theirs) for ours, theirs in zip(_flat(trainer), _flat(engine), strict=True)]
    return Agreement(len(logprob_mismatch), fmean(logprob_mismatch), max(logprob_mismatch), tuple(unadapted))


def nearer_untrained(
    engine: Sequence[Sequence[float]], trainer: Sequence[Sequence[float]], untrained: Sequence[Sequence[float]]
) -> bool:
    """Return whether the engine's log-probs are nearer (in squares) to the untrained model's, by five standard errors.

    An adapter that does nothing yet leaves trainer and untrained model equal: then neither is nearer.
    """
    nearer = [
        (said - ours) ** 2 - (said - before) ** 2
        for said, ours, before in zip(_flat(engine), _flat(trainer), _flat(untrained), strict=True)
    ]
    return fmean(nearer) > _STANDARD_ERRORS * pstdev(nearer) / sqrt(len(nearer))


def _flat(scores: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in scores for value in row]


def _of(policy: str, rows: Sequence[TrainRow], scores: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    return [score for row, score in zip(rows, scores, strict=True) if row.policy == policy]


def _scores(learner: Learner, rows: Sequence[TrainRow]) -> tuple[list[list[float]], list[list[float]]]:
    """Return under the policy and under the untrained model. A policy at a time: a micro-batch holds one policy's rows."""
    trainer: dict[str, list[float]] = {}
    untrained: dict[str, list[float]] = {}
    for policy in dict.fromkeys(row.policy for row in rows):
        for batch in learner.batches([row for row in rows if row.policy == policy], max_tokens=1024):
            for row, scored, before in zip(batch, learner.score(batch), learner.reference_logprobs(batch), strict=True):
                trainer[row.decision_id] = scored.logprob_T.detach().tolist()
                untrained[row.decision_id] = before.tolist()
    return [trainer[row.decision_id] for row in rows], [untrained[row.decision_id] for row in rows]
