"""A stage's key, and the slices of the configuration that several stages' keys share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.base.job import Job
from stages.base.stage import Stage
from store.disk.hashing import digest


def stage_key(stage: Stage[Any], job: Job, weights_identity: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return the key, and what it was made from (kept in the manifest, so that two keys can be compared)."""
    cache_key_inputs: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "config": stage.config_slice(job),
        "inputs": {name: artifact.digest for name, artifact in job.inputs.items()},
    }
    if stage.weights:
        cache_key_inputs["policy"] = job.weights.version
        cache_key_inputs["weights"] = dict(weights_identity or {})
    if stage.weights == "samples" and job.draw_set:
        cache_key_inputs["draw_set"] = job.draw_set
    cache_key_inputs |= job.key_inputs
    return digest(cache_key_inputs)[:32], cache_key_inputs


def prompts_slice(job: Job) -> list[dict[str, Any]]:
    """Return what the roles are and see: part of the key of every stage that renders prompts."""
    return [role.model_dump(mode="json", exclude={"policy", "max_new_tokens"}) for role in job.roles]


def answers_slice(job: Job) -> list[dict[str, Any]]:
    """Return who answers for each role, and how long at most: part of the key of every stage that answers prompts."""
    return [
        {"name": role.name, "policy": role.policy, "max_new_tokens": job.config.max_new_tokens(role)}
        for role in job.roles
    ]


def sampling_slice(job: Job) -> dict[str, Any]:
    """Return how messages are drawn; how long they are at most is each role's own."""
    return job.config.sampling.model_dump(mode="json", exclude={"max_new_tokens"})
