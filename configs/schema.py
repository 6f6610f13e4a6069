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


class ModelSection(Section):
    """What every engine of a model says of it. The trainer loads the same model in the same way."""

    model: str = "embedded"
    """"embedded" (SmolLM2-135M-Instruct from its package), a local directory, or a hub name."""
    revision: str | None = None
    """Commit or tag of a hub name."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto": bfloat16 where the processor multiplies it natively, else float32. What it resolves to is in the key."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(2, ge=1)
    """Fixed, because a sum's order is part of its result."""


class TransformersEngineConfig(ModelSection):
    """The embedded engine: any causal model that transformers can load, on CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"
    max_batch_tokens: int = Field(16384, ge=256)
    """Prompt and new tokens held at once while sampling."""


class VllmEngineConfig(ModelSection):
    """vLLM in this process: for GPUs (and CPUs, with its CPU build). Needs the `vllm` extra."""

    kind: Literal["vllm"] = "vllm"
    max_model_len: int | None = Field(None, ge=16)
    """Tokens of a prompt and its message together, at most; None: the model's own window."""
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 512] = 16
    """Adapters of a higher rank are refused; memory is set aside for this."""
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that weights and cache may take."""
    cpu_cache_gib: int = Field(2, ge=1)
    """GiB of key-value cache where there is no GPU."""
    enforce_eager: bool = False
    """Skip compilation and CUDA graphs: starts sooner, samples more slowly."""
    before_update: Literal["shutdown", "sleep", "stay"] = "shutdown"
    """What frees the memory for the trainer: end vLLM (it starts again when next needed), let it sleep (a GPU only;
    quicker to wake, needs host memory for the weights), or nothing, where there is room for both."""
    probe: bool = True
    """Before the first message under a policy version, compare the engine's log-probs with the trainer's on a few fixed
    prompts; a gap past update.max_mean_gap stops the round. Loads the trainer's model."""


class VllmServerEngineConfig(ModelSection):
    """One or many vLLM servers, OpenAI's protocol. `model`, `dtype` and `device` are what codec and trainer load here.

    Servers need --enable-lora --logprobs-mode processed_logprobs, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in their
    environment, and the store under the path it has here.
    """

    kind: Literal["vllm_server"] = "vllm_server"
    urls: tuple[str, ...] = Field(min_length=1)
    """Of each server, as in "http://gpu-1:8000". Messages are spread over them."""
    served_model: str | None = None
    """The name under which the servers offer the model; None: what `model` says (for a local one its directory)."""
    concurrency: int = Field(64, ge=1)
    """Messages in flight per server."""
    timeout_seconds: float = Field(300.0, gt=0)
    """A message that takes longer is asked for again."""
    attempts: int = Field(5, ge=1)
    """How often one message is asked for at most, with growing pauses, on another server where there is one."""
    first_pause_seconds: float = Field(1.0, ge=0)
    """The pause before the second attempt; it doubles from one to the next."""
    probe: bool = True
    """Before the first message under a policy version, compare the servers' log-probs with the trainer's on a few fixed
    prompts; a gap past update.max_mean_gap stops the round. Loads the trainer's model."""


class ScriptedEngineConfig(Section):
    """A tabular world: every message is one word, every policy a softmax table whose Q and V can be enumerated."""

    kind: Literal["scripted"] = "scripted"
    words: tuple[str, ...] = Field(("ant", "bee", "cat"), min_length=1)
    """What each role can say."""
    world_seed: int = 0
    """Fixes the untrained policy's logits."""
    spread: float = Field(1.0, ge=0)
    """Standard deviation of those logits. 0: every word equally likely."""


ModelEngineConfig = TransformersEngineConfig | VllmEngineConfig | VllmServerEngineConfig
"""Engines of a language model: what they sample from can be trained."""

EngineConfig = Annotated[ModelEngineConfig | ScriptedEngineConfig, Field(discriminator="kind")]


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

    weights: Literal["lora", "full"] = "lora"
    """"lora": an adapter. "full": every weight of the model, for small models: each policy is then a model of its own, and
    wants a far lower learning rate. All policies of a team are of one kind."""
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
    """"state": siblings of one replay state. "context": all alternatives of a problem shown the same token ids.
    no_replay, magrpo and rloo compare over a whole problem and do not ask."""
    normalisation: Literal["none", "group_std", "batch_std"] = "none"
    """Which .sql file in store/sql/normalisations: "group_std" is the z-score inside the group, "batch_std" a division by the
    batch's standard deviation."""
    solo_replays: int = Field(1, ge=1)
    """Only for the estimator ccpo: replays of every state of a credited role without that role's message. They come on top of
    the plan's budget; `c3 plan` counts them."""


class CriticConfig(Section):
    """The critic stage, which runs where the estimator reads learned values (mappo, value_assisted, value_only)."""

    folds: int = Field(5, ge=2)
    """The round's problems are cut into so many; each is told by value heads fitted on the others."""


class ScheduleConfig(Section):
    """How the learning rate goes over the whole run. Stays as it is where no rounds are given."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stays, or falls to `final_share` at the end of the run."""
    rounds: int | None = Field(None, ge=1)
    """Length of the run that the schedule spans; linear, cosine and a warm-up need it."""
    warmup_share: float = Field(0.0, ge=0, lt=1)
    """Share of the run over which the rate rises from zero."""
    final_share: float = Field(0.0, ge=0, le=1)
    """Share of the rate that is left at the end."""
    every: Literal["step", "round"] = "step"
    """Whether the rate changes with every optimiser step, or stays within a round."""

    @model_validator(mode="after")
    def _spans_a_run(self) -> ScheduleConfig:
        if self.rounds is None and (self.kind != "constant" or self.warmup_share):
            raise ValueError("update.schedule.rounds: missing; a schedule spans a run, say how many rounds it has")
        return self


class KlConfig(Section):
    """Staying near the reference: the model before any training, without adapters. Measured whatever is set here."""

    coefficient: float = Field(0.0, ge=0)
    """Weight of the KL in the loss; 0: only measured."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """See stages/losses/kl_to_reference.py; k1 in the loss has no gradient on average."""


class UpdateConfig(Section):
    """The policy update."""

    learning_rate: float = Field(3e-4, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_gradient_norm: float = Field(1.0, gt=0)
    epochs: int = Field(1, ge=1)
    minibatches: int = Field(4, ge=1)
    """Optimiser steps per epoch; problems are dealt to them by the seed."""
    loss: Literal["clipped_policy_gradient", "reinforce"] = "clipped_policy_gradient"
    clip: float = Field(0.2, gt=0)
    dual_clip: float | None = Field(None, gt=1)
    """Bounds the loss of bad messages that have become likelier; None: unbounded, as in PPO."""
    ratio: Literal["token", "sequence"] = "token"
    """Per token, or one ratio per message (the paper's formula)."""
    reduction: Literal["role_token_mean", "token_mean", "sequence_mean", "constant"] = "role_token_mean"
    """"role_token_mean": mean over the trained tokens of a role, summed over roles. "constant": mean over messages of
    their sum, divided by `constant_tokens`."""
    constant_tokens: int | None = Field(None, ge=1)
    kl: KlConfig = KlConfig()
    entropy_bonus: float = Field(0.0, ge=0)
    """Weight of the entropy in the loss; it is measured whatever is set here."""
    truncated_importance: float | None = Field(None, gt=0)
    """Cap of the weights that correct for the engine's arithmetic; None: no weights. Rows without the engine's log-probs
    are then left out."""
    frozen_roles: tuple[str, ...] = ()
    """Roles that are not learned from, though their policy may be trained by others."""
    train_truncated: bool = True
    """Whether messages cut at max_new_tokens are learned from."""
    undefined_advantage: Literal["skip", "zero"] = "skip"
    """What becomes of a row whose advantage is NULL: left out (and counted), or trained as 0."""
    max_version_lag: int = Field(0, ge=0)
    """How many updates ago a row's policy may have sampled it. 0: only the policy that this update starts from."""
    max_mean_gap: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """The update stops when a role's log-probs as recomputed and as sampled differ by more than this per token, on
    average. "auto": 0.2 in bfloat16, 0.002 in float32."""
    checkpoint_steps: int = Field(4, ge=1)
    """Optimiser steps per part of the update: a killed update loses at most these."""
    processes: int = Field(1, ge=1)
    """How many share each optimiser step: one per GPU, or side by side on a CPU (each with engine.threads). They are started
    for each part and give the update of one process but for rounding (and but for dropout's draws)."""
    layout: Literal["packed", "padded", "single"] = "packed"
    """How rows share a forward pass; all three give the same gradient."""
    max_tokens: int = Field(1024, ge=64)
    """Tokens in one micro-batch: bounds memory, changes nothing else but rounding."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base while training (adapters are float32). "auto": the engine's."""
    gradient_checkpointing: bool = False
    """Compute activations again when going back: less memory, a third more time."""
    keep_model: bool | Literal["auto"] = "auto"
    """Keep the trainer's model from round to round: no loading, but its memory stays taken while sampling. "auto": yes,
    but beside vLLM only on a CPU."""

    @model_validator(mode="after")
    def _reduces(self) -> UpdateConfig:
        if (self.reduction == "constant") != (self.constant_tokens is not None):
            raise ValueError(
                'update.constant_tokens: goes with update.reduction = "constant", and that needs it: the number of tokens '
                "that a message's summed loss is divided by"
            )
        return self


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
        self._check_ranks()
        self._check_weights()
        return self

    def _check_ranks(self) -> None:
        if isinstance(self.engine, VllmEngineConfig):
            for name, policy in self.policies.items():
                if policy.lora_rank > self.engine.max_lora_rank:
                    raise ValueError(
                        f"policies.{name}.lora_rank: {policy.lora_rank}, but engine.max_lora_rank is "
                        f"{self.engine.max_lora_rank}; raise that, or lower the rank"
                    )

    @property
    def trains_fully(self) -> bool:
        """Whether policies are whole models, not adapters."""
        return any(policy.weights == "full" for policy in self.policies.values())

    def _check_weights(self) -> None:
        if self.trains_fully and not isinstance(self.engine, TransformersEngineConfig):
            raise ValueError(
                f'policies: weights = "full" needs the transformers engine; {self.engine.kind} samples from adapters'
            )
        if len({policy.weights for policy in self.policies.values()}) > 1:
            raise ValueError("policies: weights is full for some and lora for others; make them the same")

    def max_new_tokens(self, role: Role) -> int:
        """Tokens at most in one message of this role."""
        return role.max_new_tokens or self.sampling.max_new_tokens
