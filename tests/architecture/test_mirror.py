"""tests/ mirrors the house: where a module has no test file of its own, this names the one that tests it.

The test of `stages/base/parts.py` is `tests/stages/base/test_parts.py`, that of a package `__init__.py` the file named after the
package. What needs a process, a server or a kill is in tests/system.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
BESIDE = ("architecture", "cli", "docs", "support", "system", "store/sql")
"""Folders of tests/ that are of no room: of the whole, of the command line, of the pages, of the queries."""
TESTED_BY: Mapping[str, tuple[str, ...]] = {
    "tests/architecture/test_imports.py": ("pipeline/execution/process.py",),
    "tests/architecture/test_version_guard.py": ("stages/base/parts.py",),
    "tests/architecture/test_versions_in_keys.py": (
        "stages/advantages.py",
        "stages/base/keys.py",
        "stages/base/stage.py",
    ),
    "tests/architecture/test_walk.py": (
        "cli.py",
        "stages/engines/scripted/__init__.py",
        "stages/engines/transformers/__init__.py",
    ),
    "tests/cli/test_bad_input.py": (
        "configs/prompts.py",
        "configs/roles.py",
        "configs/template.py",
    ),
    "tests/cli/test_resuming.py": (
        "pipeline/views/progress.py",
        "stages/runtime/quiet.py",
    ),
    "tests/configs/test_config_keys.py": (
        "configs/evaluators.py",
        "configs/load.py",
        "configs/plan.py",
        "configs/problems.py",
        "configs/schema.py",
        "configs/section.py",
        "pipeline/views/plan.py",
        "stages/engines/registry.py",
        "stages/learners/identity.py",
        "stages/models/files.py",
        "stages/problems.py",
    ),
    "tests/docs/test_laptop_to_cluster.py": (
        "pipeline/commands/doctor.py",
        "pipeline/flows/task_runners.py",
    ),
    "tests/docs/test_pages.py": ("pipeline/steps.py",),
    "tests/pipeline/commands/test_chat.py": (
        "pipeline/commands/export_policy.py",
        "pipeline/rounds/round.py",
        "stages/models/export.py",
        "stages/models/loading.py",
    ),
    "tests/pipeline/commands/test_export.py": ("store/queries/export.py",),
    "tests/pipeline/commands/test_import_transcripts.py": ("stages/import_rollout.py",),
    "tests/pipeline/commands/test_run.py": (
        "pipeline/views/receipt.py",
        "stages/grade.py",
    ),
    "tests/pipeline/commands/test_verify.py": ("pipeline/views/findings.py",),
    "tests/pipeline/commands/test_what_if.py": (
        "pipeline/views/what_if.py",
        "stages/episodes/continuation.py",
        "stages/episodes/intervention.py",
        "stages/intervention.py",
        "store/queries/what_if.py",
    ),
    "tests/pipeline/commands/test_why.py": (
        "pipeline/views/text.py",
        "pipeline/views/why.py",
        "store/queries/why.py",
    ),
    "tests/pipeline/flows/test_round_flows.py": ("pipeline/flows/server.py",),
    "tests/pipeline/flows/test_serving.py": ("pipeline/deployments.py",),
    "tests/pipeline/rounds/test_status.py": (
        "pipeline/execution/context.py",
        "pipeline/execution/runner.py",
        "pipeline/rounds/recording.py",
    ),
    "tests/pipeline/trackers/test_trackers.py": (
        "pipeline/trackers/mlflow.py",
        "pipeline/trackers/protocol.py",
        "pipeline/trackers/report.py",
        "pipeline/trackers/tensorboard.py",
        "pipeline/trackers/wandb.py",
    ),
    "tests/stages/diagnostics/test_coverage.py": (
        "stages/diagnostics/figure.py",
        "stages/diagnostics/groups.py",
        "stages/diagnostics/statistics.py",
    ),
    "tests/stages/diagnostics/test_metrics.py": (
        "pipeline/commands/diagnose.py",
        "pipeline/views/diagnose.py",
        "stages/diagnose.py",
        "stages/independent_replay.py",
        "store/queries/diagnostics.py",
    ),
    "tests/stages/engines/scripted/test_engine.py": ("stages/engines/protocol.py",),
    "tests/stages/engines/transformers/test_engine.py": (
        "stages/engines/transformers/batching.py",
        "stages/engines/transformers/kv_cache.py",
        "stages/engines/transformers/token_sampling.py",
        "stages/models/embedded.py",
        "stages/models/grouped_attention.py",
    ),
    "tests/stages/engines/vllm/test_in_process.py": (
        "stages/engines/vllm/__init__.py",
        "stages/engines/vllm/worker_extension.py",
        "stages/episodes/state.py",
        "stages/models/lora_merge.py",
    ),
    "tests/stages/engines/vllm_server/test_servers.py": (
        "stages/engines/adapters.py",
        "stages/engines/vllm_server/__init__.py",
        "stages/engines/vllm_server/http_client.py",
    ),
    "tests/stages/episodes/test_generate_calls.py": (
        "configs/role_graph.py",
        "stages/base/resources.py",
        "stages/episodes/team.py",
    ),
    "tests/stages/evaluators/test_evaluators.py": (
        "stages/evaluators/exact.py",
        "stages/evaluators/number.py",
        "stages/evaluators/quoting.py",
        "stages/evaluators/table.py",
    ),
    "tests/stages/evaluators/test_math.py": (
        "stages/evaluators/protocol.py",
        "stages/evaluators/registry.py",
    ),
    "tests/stages/learners/full/test_learner.py": (
        "stages/learners/full/__init__.py",
        "stages/learners/registry.py",
        "stages/models/adapter_files.py",
    ),
    "tests/stages/learners/scoring/test_layouts.py": (
        "stages/learners/lora/kernels.py",
        "stages/learners/scoring/causal.py",
        "stages/learners/scoring/packing.py",
        "stages/learners/scoring/token_logprobs.py",
        "stages/learners/scoring/trie_attention.py",
    ),
    "tests/stages/learners/tabular/test_learner.py": (
        "configs/engines.py",
        "stages/learners/protocol.py",
        "stages/learners/tabular/__init__.py",
        "stages/models/identity.py",
        "stages/models/scripted_codec.py",
        "stages/models/scripted_world.py",
    ),
    "tests/stages/losses/test_losses.py": (
        "stages/losses/clipped_policy_gradient.py",
        "stages/losses/kl_to_reference.py",
        "stages/losses/objective.py",
        "stages/losses/protocol.py",
        "stages/losses/reductions.py",
        "stages/losses/reinforce.py",
        "stages/losses/truncated_importance.py",
    ),
    "tests/stages/mismatch/test_engine_check.py": (
        "pipeline/execution/limits.py",
        "pipeline/rounds/state.py",
    ),
    "tests/stages/mismatch/test_logprob_mismatch.py": ("pipeline/rounds/policy.py",),
    "tests/stages/models/test_chat_codec.py": ("stages/models/protocol.py",),
    "tests/stages/problem_sources/test_jsonl.py": (
        "stages/problem_sources/overlap.py",
        "stages/problem_sources/protocol.py",
        "stages/problem_sources/registry.py",
    ),
    "tests/stages/test_ablated_replay.py": (
        "pipeline/rounds/cost.py",
        "pipeline/rounds/plan.py",
    ),
    "tests/stages/test_update.py": (
        "stages/learners/lora/__init__.py",
        "stages/training/optimizers.py",
        "stages/training/trainer.py",
    ),
    "tests/stages/training/test_gradient_geometry.py": ("stages/training/examples.py",),
    "tests/stages/training/test_launch.py": (
        "stages/base/inputs.py",
        "stages/base/job.py",
        "stages/runtime/device.py",
        "stages/training/process_group.py",
    ),
    "tests/stages/training/test_lr_schedule.py": ("configs/training.py",),
    "tests/store/queries/test_catalog_views.py": (
        "pipeline/commands/sql.py",
        "pipeline/views/rows.py",
    ),
    "tests/store/queries/test_comparison.py": ("pipeline/rounds/stored.py",),
    "tests/store/queries/test_estimators.py": (
        "pipeline/commands/compare.py",
        "pipeline/rounds/warnings.py",
    ),
    "tests/store/queries/test_summaries.py": ("configs/intervals.py",),
    "tests/store/runs/test_garbage.py": ("pipeline/commands/gc.py",),
    "tests/store/runs/test_staleness.py": ("pipeline/views/status.py",),
    "tests/store/sql/test_checks.py": ("store/queries/checks.py",),
    "tests/store/sql/test_estimator_rows.py": ("configs/credit.py",),
    "tests/system/test_gpu.py": ("stages/runtime/determinism.py",),
    "tests/system/test_kills.py": (
        "pipeline/execution/signals.py",
        "stages/runtime/parent_watch.py",
    ),
    "tests/system/test_name_clash.py": ("stages/runtime/child_processes.py",),
    "tests/system/test_real_round.py": (
        "pipeline/commands/training.py",
        "pipeline/views/compare.py",
    ),
    "tests/system/test_rounds.py": (
        "stages/answer.py",
        "stages/episodes/rows.py",
        "stages/evaluate.py",
        "stages/freeze.py",
        "stages/problem_sources/scripted.py",
        "stages/replay.py",
        "stages/rollout.py",
        "stages/sample.py",
    ),
    "tests/test_c3.py": ("stages/learners/lora/learner.py",),
}
"""Test file -> the modules without one of their own that it tests: they are small, or only mean something together."""


def _modules() -> list[str]:
    folders = ("configs", "store", "stages", "pipeline")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "cli.py", ROOT / "c3.py"]
    return [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.name != "__init__.py" or path.read_text(encoding="utf-8").strip()
    ]


def _own_test(module: str) -> Path:
    path = Path(module)
    if path.name == "__init__.py":
        return ROOT / "tests" / path.parent.parent / f"test_{path.parent.name}.py"
    return ROOT / "tests" / path.parent / f"test_{path.name}"


def test_every_module_has_a_test_of_its_own_or_is_named_with_the_one_that_tests_it() -> None:
    named = [module for modules in TESTED_BY.values() for module in modules]
    assert len(named) == len(set(named))
    without = {module for module in _modules() if not _own_test(module).exists()}
    assert without == set(named)
    assert [test for test in TESTED_BY if not (ROOT / test).exists()] == []


def test_the_folders_of_tests_are_those_of_the_house() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folders = {
        Path(line).parent.relative_to("tests").as_posix()
        for line in listed.stdout.splitlines()
        if Path(line).name.startswith("test_") and (ROOT / line).exists()
    }
    strangers = {folder for folder in folders if folder != "." and not (ROOT / folder).is_dir()}
    assert {folder for folder in strangers if not folder.startswith(BESIDE)} == set()
