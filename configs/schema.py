"""The configuration of a run: declarations only. Every default stands here, once.

A stage's key holds the slice of this that the stage reads, so a field belongs to the section of the stage that reads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.plan import PlanConfig
from configs.prompts import check_prompts
from configs.role_graph import check_graph
from configs.section import Section


class TransformersEngineConfig(Section):
    """The embedded engine: any causal model that transformers can load, on CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"
    model: str = "embedded"
    """"embedded" (SmolLM2-135M-Instruct from its package), a local directory, or a hub name."""
    revision: str | None = None
    """Commit or tag of a hub name."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto": bfloat16 where the processor multiplies it natively, else float32. What it resolves to is in the key."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(2, ge=1)
    """Fixed, because a sum's order is part of its result."""
    max_batch_tokens: int = Field(16384, ge=256)
    """Prompt and new tokens held at once while sampling."""


class ScriptedEngineConfig(Section):
    """A tabular world: every message is one word, every policy a softmax table whose Q and V can be enumerated."""

    kind: Literal["scripted"] = "scripted"
    words: tuple[str, ...] = Field(("ant", "bee", "cat"), min_length=1)
    """What each role can say."""
    world_seed: int = 0
    """Fixes the untrained policy's logits."""
    spread: float = Field(1.0, ge=0)
    """Standard deviation of those logits. 0: every word equally likely."""


EngineConfig = Annotated[TransformersEngineConfig | ScriptedEngineConfig, Field(discriminator="kind")]


class ArithmeticProblems(Section):
    """One- and two-step arithmetic word problems, generated from a seed: no download."""

    source: Literal["arithmetic"] = "arithmetic"
    count: int = Field(256, ge=1)
    seed: int = 0
    two_step_share: float = Field(0.25, ge=0, le=1)
    largest: int = Field(20, ge=2)
    """Largest number in a question."""
    split: Literal["train", "heldout"] = "train"
    """A calculation belongs to one of the two by its hash (a fifth is held out), so that whatever their seeds and sizes no
    question of a "heldout" set occurs in a "train" set, reworded or not."""


class JsonlProblems(Section):
    """Problems from a JSONL file (or a JSON array), one object each."""

    source: Literal["jsonl"] = "jsonl"
    path: str
    """Relative paths are relative to the current directory."""
    suite: str | None = None
    """Name of the suite in the tables; the file's stem by default."""
    question_field: str | tuple[str, ...] = "question"
    """Dots enter nested objects ("item.text"). Several fields are joined by a space."""
    answer_field: str = "answer"
    id_field: str | None = None
    """Without one, a problem's id is the hash of its question (and of how often the file asked it before)."""
    answer_after: str | None = None
    """Keep only what follows the last of these marks in the answer, "#### " for GSM8K."""
    empty_answers: Literal["refuse", "skip"] = "refuse"
    """A row without a reference answer cannot be graded: an error naming the line, or left out."""
    limit: int | None = Field(None, ge=1)
    """Take the first so many."""


class ScriptedProblems(Section):
    """Problems of a tabular world: each has a random reward for every word."""

    source: Literal["scripted"] = "scripted"
    count: int = Field(8, ge=1)
    seed: int = 0
    words: tuple[str, ...] = ("ant", "bee", "cat")


ProblemsConfig = Annotated[ArithmeticProblems | JsonlProblems | ScriptedProblems, Field(discriminator="source")]


class FewShotTurn(Section):
    """One worked exchange shown before the real prompt."""

    user: str
    assistant: str


class Role(Section):
    """A seat of the team."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    depends_on: tuple[str, ...] = ()
    """Roles whose messages it waits for. It may be shown any of its transitive ancestors and nothing else."""
    policy: str = "team"
    """Which policy answers; roles that name the same one share its weights."""
    system: str | None = None
    few_shot: tuple[FewShotTurn, ...] = ()
    user: str
    """Template; {question} and {role} are replaced by the problem and by that ancestor's message."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Overrides sampling.max_new_tokens for this role."""


class PolicyConfig(Section):
    """One set of trainable weights."""

    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: float | None = Field(None, gt=0)
    """Overrides update.learning_rate for this policy."""
    frozen: bool = False
    """Samples but is never trained."""


class SamplingConfig(Section):
    """How messages are drawn while training. Truncation biases the update's ratio; see METHOD, section 8."""

    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0: the whole vocabulary."""
    max_new_tokens: int = Field(24, ge=1)


class ExactEvaluator(Section):
    """Reward 1 when the final message is the answer and nothing else, else 0."""

    kind: Literal["exact"] = "exact"


class NumberEvaluator(Section):
    """Reward 1 when the number read from the final message equals the answer, else 0."""

    kind: Literal["number"] = "number"
    read: Literal["whole", "after_mark", "last"] = "after_mark"
    """"whole": the message is the number and nothing else; "after_mark": what follows the last `mark`;
    "last": the last number in the message."""
    mark: str = Field("####", min_length=1)


class MathEvaluator(Section):
    """Reward 1 when math-verify finds the final message's answer equal to the reference, else 0."""

    kind: Literal["math"] = "math"


class TableEvaluator(Section):
    """The scripted world's: the problem's answer is a JSON object from word to reward."""

    kind: Literal["table"] = "table"


EvaluatorConfig = Annotated[
    ExactEvaluator | NumberEvaluator | MathEvaluator | TableEvaluator, Field(discriminator="kind")
]


class GradeConfig(Section):
    """The grade stage."""

    evaluator: EvaluatorConfig = NumberEvaluator()
    max_unscored_share: float = Field(0.02, ge=0, le=1)
    """The stage stops when the evaluator fails on more than this share of answers."""


class AdvantagesConfig(Section):
    """The advantages stage: which .sql file in store/sql/estimators, and over which groups."""

    estimator: str = "c3"
    group_by: Literal["state", "context"] = "state"
    """"state": siblings of one replay state. "context": all alternatives of a problem shown the same token ids."""


class UpdateConfig(Section):
    """The policy update."""

    learning_rate: float = Field(3e-4, gt=0)
    anneal_rounds: int = Field(0, ge=0)
    """The learning rate falls linearly, round by round, to zero after so many rounds; 0: it stays."""
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_gradient_norm: float = Field(1.0, gt=0)
    epochs: int = Field(1, ge=1)
    minibatches: int = Field(4, ge=1)
    """Optimiser steps per epoch; problems are dealt to them by the seed."""
    clip: float = Field(0.2, gt=0)
    ratio: Literal["token", "sequence"] = "token"
    """Per token, or one ratio per message (the paper's formula)."""
    reduction: Literal["role_token_mean", "token_mean", "sequence_mean"] = "role_token_mean"
    """"role_token_mean": mean over the trained tokens of a role, summed over roles."""
    train_truncated: bool = True
    """Whether messages cut at max_new_tokens are learned from."""
    undefined_advantage: Literal["skip", "zero"] = "skip"
    """What becomes of a row whose advantage is NULL: left out (and counted), or trained as 0."""
    checkpoint_steps: int = Field(4, ge=1)
    """Optimiser steps per part of the update: a killed update loses at most these."""
    layout: Literal["packed", "padded", "single"] = "packed"
    """How rows share a forward pass; all three give the same gradient."""
    max_tokens: int = Field(1024, ge=64)
    """Tokens in one micro-batch: bounds memory, changes nothing else but rounding."""


class EvaluateConfig(Section):
    """Greedy answers on a fixed problem set."""

    problems: ProblemsConfig | None = None
    """None: nothing to evaluate on."""
    every: int = Field(0, ge=0)
    """`run training` also evaluates after every so many rounds; 0: only before the first and after the last."""


class PartsConfig(Section):
    """How a stage is cut. A killed stage loses at most the part in hand."""

    problems: int = Field(8, ge=1)
    """Problems per part of the stages that generate. Batches never cross a part, so this is in their keys."""
    answers: int = Field(64, ge=1)
    """Problems per part of the answer stage."""


class RoundConfig(Section):
    """Which problems a round takes."""

    problems: int = Field(16, ge=1)
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
    advantages: AdvantagesConfig = AdvantagesConfig()
    update: UpdateConfig = UpdateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    parts: PartsConfig = PartsConfig()

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
        self.plan.check(order)
        return self

    def max_new_tokens(self, role: Role) -> int:
        """Tokens at most in one message of this role."""
        return role.max_new_tokens or self.sampling.max_new_tokens
