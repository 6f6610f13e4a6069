"""`c3 doctor`: whether the configured engine (each of its servers) can do a round's work, before a round depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from configs.errors import C3Error
from configs.schema import Config, EngineConfig, ScriptedEngineConfig
from stages.agreement import agreement
from stages.engines.hardware import resolved_dtype
from stages.engines.make import base_digest, check_adapters_allowed, make_engine, one_by_one
from stages.engines.protocol import Engine
from stages.learners.make import make_learner
from stages.learners.protocol import Learner
from stages.provenance import gap_bound
from store.policies import PolicyVersion, initial_policy


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at, and what was found, in a line."""

    what: str
    good: bool
    said: str


def examine(config: Config, policy: PolicyVersion | None = None) -> Iterator[Checked]:
    """Look at the engine or at each server: reachable, of the right model, open to adapters, at one with the trainer.

    `policy`: whose weights are sampled and scored; None: the untrained team.
    """
    policy = policy or initial_policy(base_digest(config.engine), list(config.policies))
    learner: Learner | None = None
    for name, alone in one_by_one(config.engine):
        engine: Engine | None = None
        try:
            engine = make_engine(alone)
            engine.use(policy)
            yield Checked(name, True, "answers, and serves the model")
            check_adapters_allowed(engine)
            yield Checked(name, True, "takes adapters")
            learner = learner or make_learner(config)
            yield _agreement(name, config, engine, learner, policy)
        except C3Error as error:
            yield Checked(name, False, str(error))
        finally:
            if engine is not None:
                engine.close()


def _agreement(name: str, config: Config, engine: Engine, learner: Learner, policy: PolicyVersion) -> Checked:
    found = agreement(config, engine, learner, policy)
    bound = gap_bound(config, coarser_dtype(config.engine))
    said = f"mean gap {found.mean_gap:.2g} nats a token to the trainer (largest {found.largest_gap:.2g}, {found.tokens} tokens)"
    if not found.mean_gap <= bound:
        said += f", past {bound:g}: another model or dtype, or log-probs before temperature (--logprobs-mode)"
    return Checked(name, found.mean_gap <= bound, said)


def coarser_dtype(config: EngineConfig) -> str:
    """What engine and trainer compute in; a tabular world is exact."""
    return "float32" if isinstance(config, ScriptedEngineConfig) else resolved_dtype(config.dtype, config.device)
