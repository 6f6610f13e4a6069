"""Worlds with known answers: scripted teams small enough that every Q and V is an exact sum.

    V(h) = sum_a pi(a | h) Q(h, a)        Q(h, a) = V(h a), or the reward of a where a ends the episode

`Truth` renders prompts and walks the tree by itself, so that it can be held against the stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.engines import ScriptedEngineConfig
from configs.evaluators import GradeConfig, TableEvaluator
from configs.plan import PlanConfig, TreePlan
from configs.problems import ScriptedProblems
from configs.prompts import fill
from configs.role_graph import topological_order
from configs.roles import FewShotTurn, Role
from configs.schema import Config, PartsConfig, RoundConfig, SamplingConfig
from configs.training import PolicyConfig
from stages.engines.scripted.engine import ScriptedEngine
from stages.evaluators.table import TableGrader
from stages.models.identity import base_digest
from stages.models.protocol import ChatMessage
from stages.models.scripted_codec import ScriptedCodec
from stages.models.scripted_world import Vector
from stages.problem_sources.protocol import Problem
from store.artifacts.policy_version import Adapter, PolicyVersion
from store.disk.hashing import digest

WORDS = ("ant", "bee", "cat")

Upstream = Mapping[str, str]
"""Role -> the word it said, for every role that has spoken."""


def base_policy(config: Config) -> PolicyVersion:
    """The untrained team of a world."""
    assert isinstance(config.engine, ScriptedEngineConfig)
    base = base_digest(config.engine)
    adapters = {name: Adapter(digest(["untrained", name]), None) for name in config.policies}
    return PolicyVersion(digest([base, sorted(adapters)]), base, adapters)


class Truth:
    """Exact Q and V of a world under one policy version, by recursion over everything the team could say."""

    def __init__(self, config: Config, policy: PolicyVersion | None = None) -> None:
        assert isinstance(config.engine, ScriptedEngineConfig)
        assert config.sampling.top_p == 1 and config.sampling.top_k == 0
        by_name = {role.name: role for role in config.roles}
        self.order = topological_order({role.name: role.depends_on for role in config.roles})
        self.roles = [by_name[name] for name in self.order]
        self.words = config.engine.words
        self._temperature = config.sampling.temperature
        self._codec = ScriptedCodec(config.engine.words)
        self._engine = ScriptedEngine(config.engine)
        self._engine.use(policy or base_policy(config))
        self._known: dict[tuple[Problem, tuple[str, ...]], Vector] = {}

    def context(self, problem: Problem, upstream: Upstream) -> tuple[int, ...]:
        """The token ids that the next role to speak sees."""
        role = self.roles[len(upstream)]
        chat = [] if role.system is None else [ChatMessage("system", role.system)]
        for turn in role.few_shot:
            chat += [ChatMessage("user", turn.user), ChatMessage("assistant", turn.assistant)]
        chat.append(ChatMessage("user", fill(role.user, {"question": problem.question, **upstream})))
        return tuple(self._codec.encode(chat))

    def pi(self, problem: Problem, upstream: Upstream) -> Vector:
        """pi(a | h) of the next role, [W]."""
        policy = self.roles[len(upstream)].policy
        return self._engine.probabilities(self.context(problem, upstream), policy, self._temperature)

    def q(self, problem: Problem, upstream: Upstream) -> Vector:
        """Q(h, a) of the next role's words, [W]."""
        said = tuple(upstream[name] for name in self.order[: len(upstream)])
        if (problem, said) not in self._known:
            name, ends = self.order[len(said)], len(said) + 1 == len(self.order)
            below = (self.v(problem, {**upstream, name: word}) for word in self.words)
            self._known[problem, said] = self.rewards(problem) if ends else np.array(list(below))
        return self._known[problem, said]

    def rewards(self, problem: Problem) -> Vector:
        """What each word earns as the last word of an episode, [W]."""
        return np.array([TableGrader().grade(word, problem).reward for word in self.words])

    def v(self, problem: Problem, upstream: Upstream) -> float:
        """V(h): what the team earns on average from here."""
        return float(self.pi(problem, upstream) @ self.q(problem, upstream))

    def advantage(self, problem: Problem, upstream: Upstream) -> Vector:
        """Q(h, a) - V(h), [W]: what the leave-one-out advantage is on average."""
        return self.q(problem, upstream) - self.v(problem, upstream)

    def outcomes(self, problem: Problem, upstream: Upstream) -> dict[str, float]:
        """Probability of each last word, from here on."""
        name, pi = self.order[len(upstream)], self.pi(problem, upstream)
        if len(upstream) + 1 == len(self.order):
            return dict(zip(self.words, map(float, pi), strict=True))
        total = dict.fromkeys(self.words, 0.0)
        for word, probability in zip(self.words, pi, strict=True):
            for last, share in self.outcomes(problem, {**upstream, name: word}).items():
                total[last] += float(probability) * share
        return total


def solo(fanout: Sequence[int] = (8,), **changes: Any) -> Config:
    """One role: its contexts are the problems."""
    return _world([_role("actor")], fanout, changes)


def duo(fanout: Sequence[int] = (2, 4), **changes: Any) -> Config:
    """The paper's team: Reasoner -> Actor, one policy."""
    return _world([_role("reasoner"), _role("actor", "reasoner")], fanout, changes)


def trio(fanout: Sequence[int] = (2, 2, 2), **changes: Any) -> Config:
    """Reasoner -> Actor -> Verifier; the Verifier sees both, with a system prompt and a worked example."""
    verifier = Role(
        name="verifier",
        depends_on=("actor",),
        system="Say one word.",
        few_shot=(FewShotTurn(user="ant", assistant="bee"),),
        user="verifier. {question}. reasoner: {reasoner} actor: {actor}",
    )
    roles = [_role("reasoner"), _role("actor", "reasoner"), verifier]
    return _world(roles, fanout, changes)


def diamond(fanout: Sequence[int] = (1, 2, 2, 2), **changes: Any) -> Config:
    """Two parallel roles: right speaks after left and does not see it, so many states share its context."""
    roles = [_role("top"), _role("left", "top"), _role("right", "top"), _role("bottom", "left", "right")]
    return _world(roles, fanout, changes)


def four_turns(fanout: Sequence[int] = (2, 2, 2, 1), **changes: Any) -> Config:
    """Two policies in turn, two turns each, unrolled; every turn sees all turns before it."""
    names = ["proposer_1", "critic_1", "proposer_2", "critic_2"]
    roles = [
        _role(name, *names[max(0, turn - 1) : turn], shows=names[:turn], policy=name.split("_")[0])
        for turn, name in enumerate(names)
    ]
    policies = {"proposer": PolicyConfig(), "critic": PolicyConfig()}
    return _world(roles, fanout, {"policies": policies, **changes})


def chain_of_ten(fanout: Sequence[int] = (2, 2, 2, 1, 1, 1, 1, 1, 1, 1), **changes: Any) -> Config:
    """Ten roles in a row, each seeing all before it; fanouts rotate from round to round.

    Two words, so 2^10 episodes. Decided policies that see everything: where each sees its neighbour alone,
    what the first role says makes a difference of 1e-8 to the last.
    """
    names = [f"role_{place}" for place in range(1, 11)]
    roles = [_role(name, *names[max(0, place - 1) : place], shows=names[:place]) for place, name in enumerate(names)]
    return _world(roles, fanout, {"words": WORDS[:2], "spread": 4.0, "rotate": True, **changes})


def _role(name: str, *parents: str, shows: Sequence[str] | None = None, policy: str = "team") -> Role:
    shown = "".join(f" {role}: {{{role}}}" for role in (parents if shows is None else shows))
    return Role(name=name, depends_on=parents, policy=policy, user=f"{name}. {{question}}.{shown}")


def _world(roles: Sequence[Role], fanout: Sequence[int], changes: Mapping[str, Any]) -> Config:
    """A config of these roles. `changes`: words, world_seed, spread, problems (a count), rotate, sections."""
    sections = dict(changes)
    words = sections.pop("words", WORDS)
    count = sections.pop("problems", 4)
    engine = ScriptedEngineConfig(
        words=words, world_seed=sections.pop("world_seed", 0), spread=sections.pop("spread", 1.0)
    )
    budget = int(np.prod(fanout))
    plan: PlanConfig = TreePlan(fanout=tuple(fanout), budget=budget, rotate=sections.pop("rotate", False))
    defaults: dict[str, Any] = {
        "engine": engine,
        "problems": ScriptedProblems(count=count, words=words),
        "rounds": RoundConfig(problems_per_round=count),
        "roles": tuple(roles),
        "plan": plan,
        "sampling": SamplingConfig(temperature=1.0),
        "grade": GradeConfig(evaluator=TableEvaluator()),
        "parts": PartsConfig(problems_per_part=2),
    }
    return Config(**{**defaults, **sections})
