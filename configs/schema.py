"""The configuration of a run: declarations only. Every default stands here, once.

A stage's key holds the slice of this that the stage reads, so a field belongs to the section of the stage that reads it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.credit import AdvantagesConfig, CriticConfig
from configs.engines import EngineConfig, TransformersEngineConfig
from configs.evaluators import GradeConfig
from configs.plan import PlanConfig
from configs.problems import ArithmeticProblems, ProblemsConfig
from configs.role_graph import check_graph
from configs.roles import Role, check_prompts
from configs.section import Section
from configs.training import PolicyConfig, UpdateConfig


class SamplingConfig(Section):
    """How messages are drawn while training. Truncation biases the update's ratio; see docs/method.md, section 7."""

    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0: the whole vocabulary."""
    max_new_tokens: int = Field(24, ge=1)


class EvaluateConfig(Section):
    """Greedy answers on a fixed problem set."""

    problems: ProblemsConfig | None = None
    """None: nothing to evaluate on."""
    every: int = Field(0, ge=0)
    """`run training` also evaluates after every so many rounds; 0: only before the first and after the last."""


class PartsConfig(Section):
    """How a stage is cut. A killed stage loses at most the part in hand."""

    problems_per_part: int = Field(8, ge=1)
    """Problems per part of the stages that generate. Batches never cross a part, so this is in their keys."""
    answers_per_part: int = Field(64, ge=1)
    """Problems per part of the answer stage."""


class WorkersConfig(Section):
    """Who makes the parts of a stage side by side. In no key: the bytes are the same."""

    runner: Literal["threads", "dask", "ray"] = "threads"
    """Threads of the command's process, or workers of Dask or Ray (extras of those names), which share the store."""
    count: int = Field(1, ge=1)
    """How many at once, on this machine; `--workers` overrides it. A cluster at `address` decides for itself."""
    address: str | None = None
    """Of a Dask scheduler or a Ray cluster that runs; None: workers on this machine, for this command."""


class TrackingConfig(Section):
    """Where the figures of finished rounds and evaluations also go, each through its own library (extras of these names). In
    no key: nothing is made again."""

    to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """The tables hold every figure whatever is named here."""
    tensorboard_dir: str | None = None
    """Where TensorBoard's files lie; None: `tensorboard` in the store."""
    project: str = Field("c3", min_length=1)
    """W&B's project, MLflow's experiment."""
    mlflow_uri: str | None = None
    """MLflow's tracking server or database; None: what MLFLOW_TRACKING_URI says, else MLflow's own default. W&B is told by
    its own variables (WANDB_MODE=offline, WANDB_ENTITY, ...)."""


class RoundConfig(Section):
    """Which problems a round takes."""

    problems_per_round: int = Field(16, ge=1)
    """Problems per round, in the order of a permutation per epoch."""


class Config(Section):
    """One run."""

    seed: int = Field(0, ge=0, lt=2**32)
    engine: EngineConfig = TransformersEngineConfig()
    problems: ProblemsConfig = ArithmeticProblems()
    rounds: RoundConfig = RoundConfig()
    roles: tuple[Role, ...] = Field(min_length=1)
    policies: dict[str, PolicyConfig] = {"team": PolicyConfig()}
    plan: PlanConfig
    sampling: SamplingConfig = SamplingConfig()
    grade: GradeConfig = GradeConfig()
    critic: CriticConfig = CriticConfig()
    advantages: AdvantagesConfig = AdvantagesConfig()
    update: UpdateConfig = UpdateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    parts: PartsConfig = PartsConfig()
    workers: WorkersConfig = WorkersConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        order = check_graph({role.name: role.depends_on for role in self.roles})
        check_prompts(self.roles)
        for role in self.roles:
            if role.policy not in self.policies:
                known = ", ".join(self.policies)
                raise ValueError(
                    f"roles.{role.name}.policy: no policy named '{role.policy}'; there is {known}. "
                    f"Add [policies.{role.policy}] or name one of these"
                )
        unused = set(self.policies) - {role.policy for role in self.roles}
        if unused:
            raise ValueError(f"policies.{min(unused)}: no role uses it; remove it or give it to a role")
        strangers = set(self.update.frozen_roles) - {role.name for role in self.roles}
        if strangers:
            raise ValueError(f"update.frozen_roles: no role named '{min(strangers)}'; there is {', '.join(order)}")
        self.plan.check(order)
        self.engine.check_policies(self.policies)
        self._check_weights()
        return self

    @property
    def trains_fully(self) -> bool:
        """Whether policies are whole models, not adapters."""
        return any(policy.weights == "full" for policy in self.policies.values())

    def _check_weights(self) -> None:
        if len({policy.weights for policy in self.policies.values()}) > 1:
            raise ValueError("policies: weights is full for some and lora for others; make them the same")

    def max_new_tokens(self, role: Role) -> int:
        """Return how many tokens one message of this role has at most."""
        return role.max_new_tokens or self.sampling.max_new_tokens
