"""`c3 doctor`: whether the configured engine (each of its servers) can do a round's work, before a round depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from configs.errors import C3Error
from configs.schema import Config
from stages.engines.protocol import Engine
from stages.engines.registry import make_engine
from stages.learners.identity import coarser_dtype
from stages.learners.protocol import Learner
from stages.learners.registry import make_learner
from stages.mismatch.engine_check import agreement
from stages.mismatch.logprob_mismatch import mismatch_bound
from stages.models.identity import base_digest
from store.artifacts.policy_version import PolicyVersion, initial_policy

_ATTEMPTS = 2


@dataclass(frozen=True)
class Checked:
    """Hold one thing that was checked, and what was found, in a line."""

    what: str
    good: bool
    said: str


def examine(config: Config, policy: PolicyVersion | None = None) -> Iterator[Checked]:
    """Look at the engine or at each server: reachable, of the right model, open to adapters, at one with the trainer.

    `policy`: whose weights are sampled and scored; None: the untrained team.
    """
    policy = policy or initial_policy(base_digest(config.engine), list(config.policies))
    learner: Learner | None = None
    for name, alone in config.engine.apart(_ATTEMPTS):
        engine: Engine | None = None
        try:
            engine = make_engine(alone)
            engine.use(policy)
            yield Checked(name, True, "answers, and serves the model")
            engine.check_adapters_allowed()
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
    complaint = found.complaint(mismatch_bound(config, coarser_dtype(config)))
    mismatch = (
        f"mean gap {found.mean_mismatch:.2g} nats a token to the trainer "
        f"(largest {found.largest_mismatch:.2g}, {found.tokens} tokens)"
    )
    return Checked(name, complaint is None, complaint or mismatch)
