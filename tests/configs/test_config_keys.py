"""Every key of the configuration: which stages read it. Changing it makes those again and nothing before them.

What follows a stage that was made again is decided by content: it is made again where the rows came out otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from configs.errors import ConfigError
from configs.evaluators import NumberEvaluator
from configs.load import build_config
from configs.plan import EpisodesPlan, ReplayPlan, RoleReplays
from configs.problems import ScriptedProblems
from configs.schema import Config, EvaluateConfig
from configs.section import Section
from pipeline.rounds.plan import differences, plan_steps
from pipeline.rounds.resolve import StepResolver
from pipeline.steps import EVALUATION, ROUND
from stages.engines.registry import engine_identity
from stages.models.identity import base_digest, codec_identity, model_path
from store.artifacts.artifact import Artifact
from tests.support.rounds import drive, under
from tests.support.worlds import trio

WEIGHTS = ("rollout", "sample", "replay", "update", "answer")
GENERATION = ("rollout", "sample", "replay")
PROMPTS = ("rollout", "freeze", "replay", "answer")
GRADES = ("grade", "answer_grade")
NOTHING = ()


@dataclass(frozen=True)
class Change:
    """One key set to another value: which steps read it, in order, and what `c3 plan` says of the first."""

    reads: tuple[str, ...]
    set: str
    """The override; what else has to change with it follows after blanks."""
    base: str = "tree"
    says: str | None = None
    """NULL: "<last part of the key>: <old> -> <new>"."""


TABLE: Mapping[str, Change] = {
    "seed": Change((*GENERATION, "update"), "seed=1"),
    # the world: its digest is that of the untrained weights
    "engine.kind": Change(
        ("rollout", "freeze", *WEIGHTS[1:]),
        "engine={kind='transformers',model='{model}'}",
        says="weights.kind: scripted -> transformers",
    ),
    "engine[scripted].words": Change(
        ("rollout", "freeze", *WEIGHTS[1:]), "engine.words=['ant','bee']", says="weights.words: ['ant', 'bee', 'cat'] "
    ),
    "engine[scripted].world_seed": Change(WEIGHTS, "engine.world_seed=3"),
    "engine[scripted].spread": Change(WEIGHTS, "engine.spread=2.0"),
    # a model: its files count, not where they lie; a revision only says which files of a hub
    "engine[transformers].model": Change(("rollout", "freeze", *WEIGHTS[1:]), "engine.model='{other}'", "model"),
    "engine[transformers].revision": Change(NOTHING, "engine.revision='main'", "model"),
    "engine[transformers].dtype": Change(WEIGHTS, "engine.dtype=bfloat16", "model"),
    "engine[transformers].device": Change(WEIGHTS, "engine.device=cuda", "model"),
    "engine[transformers].threads": Change(WEIGHTS, "engine.threads=1", "model"),
    "engine[transformers].max_batch_tokens": Change((*GENERATION, "answer"), "engine.max_batch_tokens=512", "model"),
    # vLLM promises no bytes across batches or threads: what it samples with is its model; the trainer has its own threads
    "engine[vllm].model": Change(("rollout", "freeze", *WEIGHTS[1:]), "engine.model='{other}'", "vllm"),
    "engine[vllm].revision": Change(NOTHING, "engine.revision='main'", "vllm"),
    "engine[vllm].dtype": Change(WEIGHTS, "engine.dtype=bfloat16", "vllm"),
    "engine[vllm].device": Change(WEIGHTS, "engine.device=cuda", "vllm"),
    "engine[vllm].threads": Change(("update",), "engine.threads=1", "vllm"),
    "engine[vllm].max_model_len": Change(NOTHING, "engine.max_model_len=512", "vllm"),
    "engine[vllm].max_lora_rank": Change(NOTHING, "engine.max_lora_rank=32", "vllm"),
    "engine[vllm].gpu_memory_utilization": Change(NOTHING, "engine.gpu_memory_utilization=0.5", "vllm"),
    "engine[vllm].cpu_cache_gib": Change(NOTHING, "engine.cpu_cache_gib=1", "vllm"),
    "engine[vllm].enforce_eager": Change(NOTHING, "engine.enforce_eager=true", "vllm"),
    "engine[vllm].memory_policy": Change(NOTHING, "engine.memory_policy=stay", "vllm"),
    "engine[vllm].engine_check": Change(NOTHING, "engine.engine_check=false", "vllm"),
    # of servers: any that serve the model; the device is the trainer's
    "engine[vllm_server].model": Change(("rollout", "freeze", *WEIGHTS[1:]), "engine.model='{other}'", "vllm_server"),
    "engine[vllm_server].revision": Change(NOTHING, "engine.revision='main'", "vllm_server"),
    "engine[vllm_server].dtype": Change(WEIGHTS, "engine.dtype=bfloat16", "vllm_server"),
    "engine[vllm_server].device": Change(("update",), "engine.device=cuda", "vllm_server"),
    "engine[vllm_server].threads": Change(("update",), "engine.threads=1", "vllm_server"),
    "engine[vllm_server].urls": Change(NOTHING, "engine.urls=['http://b','http://c']", "vllm_server"),
    "engine[vllm_server].served_model": Change(NOTHING, "engine.served_model=other", "vllm_server"),
    "engine[vllm_server].concurrency": Change(NOTHING, "engine.concurrency=1", "vllm_server"),
    "engine[vllm_server].timeout_seconds": Change(NOTHING, "engine.timeout_seconds=1.0", "vllm_server"),
    "engine[vllm_server].max_attempts": Change(NOTHING, "engine.max_attempts=1", "vllm_server"),
    "engine[vllm_server].initial_backoff_seconds": Change(NOTHING, "engine.initial_backoff_seconds=0.5", "vllm_server"),
    "engine[vllm_server].engine_check": Change(NOTHING, "engine.engine_check=false", "vllm_server"),
    "problems.source": Change(("problems",), "problems={source='arithmetic',count=9}", says="source: scripted -> "),
    "problems[scripted].count": Change(("problems",), "problems.count=5"),
    "problems[scripted].seed": Change(("problems",), "problems.seed=1"),
    "problems[scripted].words": Change(
        ("problems",), "problems.words=['ant','bee']", says="words: ['ant', 'bee', 'cat'] "
    ),
    "problems[arithmetic].count": Change(("problems",), "problems.count=7", "arithmetic"),
    "problems[arithmetic].seed": Change(("problems",), "problems.seed=1", "arithmetic"),
    "problems[arithmetic].two_step_share": Change(("problems",), "problems.two_step_share=0.5", "arithmetic"),
    "problems[arithmetic].largest": Change(("problems",), "problems.largest=9", "arithmetic"),
    "problems[arithmetic].split": Change(("problems",), "problems.split=heldout", "arithmetic"),
    # a file is its content and how it is read
    "problems[jsonl].path": Change(NOTHING, "problems.path='{copy}'", "jsonl"),
    "problems[jsonl].suite": Change(("problems",), "problems.suite=mine", "jsonl", "suite: problems -> mine"),
    "problems[jsonl].question_field": Change(("problems",), "problems.question_field=other", "jsonl"),
    "problems[jsonl].answer_field": Change(("problems",), "problems.answer_field=other", "jsonl"),
    "problems[jsonl].id_field": Change(("problems",), "problems.id_field=name", "jsonl"),
    "problems[jsonl].answer_after": Change(("problems",), "problems.answer_after='#'", "jsonl"),
    "problems[jsonl].empty_answers": Change(("problems",), "problems.empty_answers=skip", "jsonl"),
    "problems[jsonl].limit": Change(("problems",), "problems.limit=3", "jsonl"),
    "rounds.problems_per_round": Change(("rollout",), "rounds.problems_per_round=2", says="problems_per_round: 4 -> 2"),
    # a key of a role is what it is shown or how it answers; siblings are drawn at contexts that are token ids by then
    "roles.name": Change((*PROMPTS[:2], "sample", *PROMPTS[2:]), "roles.verifier.name=judge"),
    "roles.depends_on": Change(PROMPTS, "roles.verifier.depends_on=['actor','reasoner']", says="depends_on: ['actor']"),
    "roles.policy": Change((*GENERATION, "answer"), "roles.actor.policy=second"),
    "roles.system": Change(PROMPTS, "roles.verifier.system='Judge.'"),
    "roles.few_shot.user": Change(
        PROMPTS, "roles.verifier.few_shot=[{user='bee',assistant='bee'}]", says="user: ant -> bee"
    ),
    "roles.few_shot.assistant": Change(
        PROMPTS, "roles.verifier.few_shot=[{user='ant',assistant='cat'}]", says="assistant: bee -> cat"
    ),
    "roles.user": Change(PROMPTS, "roles.verifier.user='{question} {actor}'", says="user: verifier. {question}."),
    "roles.max_new_tokens": Change(
        (*GENERATION, "answer"), "roles.actor.max_new_tokens=9", says="max_new_tokens: 24 -> 9"
    ),
    "policies.weights": Change(
        ("update",), "policies={team={weights='full'},second={weights='full'}}", "model", "weights.kind: lora -> full"
    ),
    "policies.lora_rank": Change(("update",), "policies.team.lora_rank=8"),
    "policies.lora_alpha": Change(("update",), "policies.team.lora_alpha=8"),
    "policies.lora_dropout": Change(("update",), "policies.team.lora_dropout=0.5"),
    "policies.target_modules": Change(("update",), "policies.team.target_modules=['q_proj']"),
    "policies.learning_rate": Change(("update",), "policies.team.learning_rate=0.5"),
    "policies.frozen": Change(("update",), "policies.second.frozen=true"),
    # the plan is read as a tree of draws: how many transcripts, how many siblings, how they are continued
    "plan.kind": Change(GENERATION, "plan={kind='episodes',budget=6}", says="transcripts: 2 -> 6"),
    "plan[tree].fanout": Change(GENERATION, "plan.fanout=[4,2,1]", says="transcripts: 2 -> 4"),
    "plan[tree].rotate": Change(NOTHING, "plan.rotate=true"),  # round 1 is not turned yet
    "plan[episodes].budget": Change(GENERATION, "plan.budget=4", "episodes", "transcripts: 6 -> 4"),
    "plan[replay].transcripts": Change(
        GENERATION, "plan.transcripts=2 plan.budget=12", "replay", "transcripts: 1 -> 2"
    ),
    "plan[replay].roles.alternatives": Change(
        ("sample", "replay"), "plan.roles.actor.alternatives=3 plan.budget=8", "replay", "siblings.1: 2 -> 3"
    ),
    "plan[replay].roles.replays": Change(
        ("replay",), "plan.roles.actor.replays=3 plan.budget=8", "replay", "replays.1: 2 -> 3"
    ),
    "sampling.temperature": Change((*GENERATION, "update"), "sampling.temperature=0.5"),
    "sampling.top_p": Change((*GENERATION, "update"), "sampling.top_p=0.5"),
    "sampling.top_k": Change((*GENERATION, "update"), "sampling.top_k=2"),
    "sampling.max_new_tokens": Change((*GENERATION, "answer"), "sampling.max_new_tokens=9"),
    "grade.evaluator.kind": Change(GRADES, "grade.evaluator={kind='exact'}"),
    "grade.evaluator[number].read": Change(GRADES, "grade.evaluator.read=last", "arithmetic"),
    "grade.evaluator[number].mark": Change(GRADES, "grade.evaluator.mark='=>'", "arithmetic"),
    "grade.max_unscored_share": Change(GRADES, "grade.max_unscored_share=0.5"),
    "advantages.estimator": Change(("advantages",), "advantages.estimator=full_mean"),
    "advantages.group_by": Change(("advantages",), "advantages.group_by=context"),
    "advantages.normalisation": Change(("advantages",), "advantages.normalisation=batch_std"),
    "advantages.ablated_replays": Change((), "advantages.ablated_replays=2"),
    "critic.folds": Change((), "critic.folds=3"),  # no estimator here reads learned values; see test_critic.py
    "update.learning_rate": Change(("update",), "update.learning_rate=0.5"),
    "update.schedule.kind": Change(
        ("update",), "update.schedule={kind='cosine',rounds=5}", says="schedule.kind: constant -> cosine"
    ),
    "update.schedule.rounds": Change(("update",), "update.schedule.rounds=5"),
    "update.schedule.warmup_ratio": Change(
        ("update",), "update.schedule={warmup_ratio=0.1,rounds=5}", says="schedule.rounds: None -> 5"
    ),
    "update.schedule.min_lr_ratio": Change(("update",), "update.schedule.min_lr_ratio=0.5"),
    "update.schedule.every": Change(("update",), "update.schedule.every=round"),
    "update.weight_decay": Change(("update",), "update.weight_decay=0.5"),
    "update.betas": Change(("update",), "update.betas=[0.5,0.999]", says="betas.0: 0.9 -> 0.5"),
    "update.max_grad_norm": Change(("update",), "update.max_grad_norm=0.5"),
    "update.epochs": Change(("update",), "update.epochs=2"),
    "update.minibatches": Change(("update",), "update.minibatches=2"),
    "update.loss": Change(("update",), "update.loss=reinforce"),
    "update.clip": Change(("update",), "update.clip=0.5"),
    "update.dual_clip": Change(("update",), "update.dual_clip=3.0"),
    "update.ratio": Change(("update",), "update.ratio=sequence"),
    "update.reduction": Change(("update",), "update.reduction=token_mean"),
    "update.constant_tokens": Change(
        ("update",), "update={reduction='constant',constant_tokens=9}", says="constant_tokens: None -> 9"
    ),
    "update.kl.coefficient": Change(("update",), "update.kl.coefficient=0.1"),
    "update.kl.estimator": Change(("update",), "update.kl.estimator=k2"),
    "update.entropy_coefficient": Change(("update",), "update.entropy_coefficient=0.1"),
    "update.truncated_importance": Change(("update",), "update.truncated_importance=2.0"),
    "update.frozen_roles": Change(("update",), "update.frozen_roles=['actor']", says="frozen_roles"),
    "update.max_version_lag": Change(("update",), "update.max_version_lag=1"),
    "update.max_logprob_mismatch": Change(("update",), "update.max_logprob_mismatch=0.5"),
    "update.train_truncated": Change(("update",), "update.train_truncated=false"),
    "update.undefined_advantage": Change(("update",), "update.undefined_advantage=zero"),
    "update.checkpoint_steps": Change(("update",), "update.checkpoint_steps=1"),
    "update.processes": Change(("update",), "update.processes=2", says="processes: None -> 2"),
    "update.layout": Change(("update",), "update.layout=single"),
    "update.max_tokens": Change(("update",), "update.max_tokens=64"),
    "update.dtype": Change(("update",), "update.dtype=bfloat16", "model"),
    "update.gradient_checkpointing": Change(("update",), "update.gradient_checkpointing=true"),
    "update.keep_model": Change(NOTHING, "update.keep_model=false"),
    # its own keys are those of problems
    "evaluate.problems": Change(("heldout",), "evaluate.problems.count=2"),
    "evaluate.every": Change(NOTHING, "evaluate.every=1"),
    "parts.problems_per_part": Change(
        ("rollout", "freeze", "sample", "replay", *GRADES),
        "parts.problems_per_part=1",
        says="problems_per_part: 2 -> 1",
    ),
    "parts.answers_per_part": Change(("answer",), "parts.answers_per_part=1"),
    "workers.runner": Change(NOTHING, "workers.runner=dask"),
    "workers.count": Change(NOTHING, "workers.count=2"),
    "workers.address": Change(NOTHING, "workers.address='tcp://somewhere:1'"),
    "tracking.to": Change(NOTHING, "tracking.to=['tensorboard','mlflow']"),
    "tracking.tensorboard_dir": Change(NOTHING, "tracking.tensorboard_dir=elsewhere"),
    "tracking.project": Change(NOTHING, "tracking.project=other"),
    "tracking.mlflow_uri": Change(NOTHING, "tracking.mlflow_uri='http://somewhere:5000'"),
}
MODELS = {"model": "transformers", "vllm": "vllm", "vllm_server": "vllm_server"}
"""Bases with a language model, and their engine. Keys are made without its weights, so no such round is run."""
STATED = {"plan[tree].budget", "plan[replay].budget"}
"""What a plan states about itself: nothing reads them, and alone they cannot be changed."""


def leaves(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a section, dotted. Of several kinds of a section each has its own, and which it is is a key as well."""
    for name, field in kind.model_fields.items():
        path = f"{prefix}{name}"
        if _is_tag(field.annotation):
            continue
        below = [] if path == "evaluate.problems" else list(_sections(field.annotation))
        if len(below) > 1:
            tag = next(n for n, f in below[0].model_fields.items() if _is_tag(f.annotation))
            yield f"{path}.{tag}"
            for section in below:
                yield from leaves(section, f"{path}[{section.model_fields[tag].default}].")
        elif below:
            yield from leaves(below[0], f"{path}.")
        else:
            yield path


def _is_tag(annotation: Any) -> bool:
    """Whether a key only says which kind of a section this is."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _sections(part)


def test_every_key_of_the_configuration_is_in_the_table() -> None:
    assert set(leaves(Config)) == set(TABLE) | STATED


@dataclass(frozen=True)
class Base:
    """A finished round and evaluation to change keys of."""

    config: Config
    resolver: StepResolver
    artifacts: Mapping[str, Artifact]

    def keys(self, config: Config) -> dict[str, str]:
        """Every step's key under a configuration, all of them over the same inputs."""
        resolver = under(self.resolver, config)
        found = {}
        for steps in (ROUND, EVALUATION):
            if steps is EVALUATION and config.evaluate.problems is None:
                continue
            found.update({step.name: resolver.resolve(step, self.artifacts).key for step in steps})
        return found

    @cached_property
    def own_keys(self) -> dict[str, str]:
        """Those under its own configuration."""
        return self.keys(self.config)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that some keys name: problems, the same problems elsewhere, and two model directories."""
    folder = tmp_path_factory.mktemp("keys")
    rows = [{"question": f"q {i}", "other": f"other {i}", "answer": str(i), "name": f"n{i}"} for i in range(6)]
    for name in ("problems.jsonl", "copy/problems.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("model", "other"):
        (folder / name).mkdir()
        for file in ("config.json", "tokenizer_config.json", "tokenizer.json"):
            (folder / name / file).write_text(json.dumps({"of": name}))
        (folder / name / "model.safetensors").write_bytes(name.encode())
    return {
        "problems": str(folder / "problems.jsonl"),
        "copy": str(folder / "copy/problems.jsonl"),
        "model": str(folder / "model"),
        "other": str(folder / "other"),
    }


@pytest.fixture(scope="session")
def base(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The base of that name, run once per session."""

    @cache
    def made(name: str) -> Base:
        config = _config(name, places)
        store = tmp_path_factory.mktemp(f"base-{name}") / "store"
        # weights are never loaded for a key, so the model's base goes on from the rows of a scripted round
        ran = drive(store, _config("tree", places) if name in MODELS else config)
        held = drive(store, ran.config, steps=EVALUATION) if config.evaluate.problems else ran
        return Base(config, ran.resolver, {**ran.artifacts, **held.artifacts})

    return made


def _config(name: str, places: Mapping[str, str]) -> Config:
    heldout = EvaluateConfig(problems=ScriptedProblems(count=3, seed=9))
    two = ["policies.second={}", "roles.verifier.policy=second"]
    plans = {
        "episodes": EpisodesPlan(budget=6),
        "replay": ReplayPlan(
            transcripts=1,
            roles={"reasoner": RoleReplays(alternatives=3), "actor": RoleReplays(alternatives=2, replays=2)},
            budget=6,
        ),
    }
    changes = {"plan": plans[name]} if name in plans else {}
    world = trio(evaluate=heldout, **changes)
    number = f"grade.evaluator={json.dumps(NumberEvaluator().model_dump())}".replace('": ', '" = ')
    more = {
        "arithmetic": ["problems={source='arithmetic',count=8}", number, "evaluate={}"],
        "jsonl": [f"problems={{source='jsonl',path='{places['problems']}'}}", number, "evaluate={}"],
    }
    if name in MODELS:
        where = ",urls=['http://a']" if name == "vllm_server" else ""
        more[name] = [f"engine={{kind='{MODELS[name]}',model='{places['model']}',device='cpu',dtype='float32'{where}}}"]
    return build_config(world.model_dump(mode="json"), [*two, *more.get(name, [])])


def _changed(of: Base, change: Change, places: Mapping[str, str]) -> Config:
    text = change.set
    for name, place in places.items():
        text = text.replace(f"'{{{name}}}'", f"'{place}'")
    overrides = text.split(" plan.budget") if " plan.budget" in text else [text]
    return build_config(
        of.config.model_dump(mode="json"), [overrides[0], *(f"plan.budget{rest}" for rest in overrides[1:])]
    )


@pytest.mark.parametrize("key", TABLE)
def test_a_key_is_read_by_these_stages_and_no_others(key: str, base: Any, places: dict[str, str]) -> None:
    of = base(TABLE[key].base)
    before, after = of.own_keys, of.keys(_changed(of, TABLE[key], places))
    expected = tuple(step for step in TABLE[key].reads if step in before)
    assert tuple(step for step in before if after[step] != before[step]) == expected


@pytest.mark.parametrize("key", [key for key, change in TABLE.items() if change.base not in MODELS])
def test_the_plan_says_what_is_made_again_and_why(key: str, base: Any, places: dict[str, str]) -> None:
    change, of = TABLE[key], base(TABLE[key].base)
    rows = {
        step: (fate, why)
        for step, fate, why in plan_steps(replace(of.resolver.round, config=_changed(of, change, places)))
    }
    first = next((name for name in ROUND.names if name in change.reads), None)
    before = ROUND.names[: ROUND.names.index(first)] if first else ROUND.names
    assert {rows[name][0] for name in before} <= {"reused"}
    if first is None:
        return
    assert rows[first][0] == "made"
    assert (change.says or _difference(of.config, _changed(of, change, places))) in rows[first][1]


def _difference(old: Config, new: Config) -> str:
    """ "name: old -> new" of the one key in which they differ."""
    [line] = differences(old.model_dump(mode="json"), new.model_dump(mode="json"))
    return line[line.index(":") - len(line[: line.index(":")].rpartition(".")[2]) :]


@pytest.mark.parametrize("key", sorted(STATED))
def test_a_stated_budget_cannot_be_changed_alone(key: str, base: Any) -> None:
    of = base("replay" if "replay" in key else "tree")
    with pytest.raises(ConfigError, match="set budget = "):
        build_config(of.config.model_dump(mode="json"), ["plan.budget=9"])


def test_a_key_is_made_without_weights(places: dict[str, str]) -> None:
    # the tables above hold for a model because none of these reads more of it than digests
    engine = _config("model", places).engine
    assert model_path(engine) == Path(places["model"])  # type: ignore[arg-type]
    assert base_digest(engine) and codec_identity(engine) and engine_identity(engine)["threads"] == 2
