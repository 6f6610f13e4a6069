"""A stage's version is raised by hand; these notice when its source changed and nobody decided.

    python tests/architecture/test_stage_versions.py      record the sources as they are, once you have decided

Raise `version` in the Stage when its rows would come out otherwise. Record without raising it when they would not.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import pytest

from pipeline.steps import EVERYTHING, INTERVENTIONS
from stages.base.stage import Stage

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("stage_sources.json")
SHARED = {
    "problems": ["stages/problem_sources/*.py"],
    "rollout": ["stages/episodes/team.py", "stages/base/draw_tree.py", "store/disk/hashing.py", "configs/prompts.py"],
    "freeze": ["stages/episodes/team.py"],
    "sample": ["stages/episodes/team.py", "stages/base/draw_tree.py"],
    "replay": ["stages/episodes/team.py", "stages/base/draw_tree.py"],
    "grade": ["stages/evaluators/*.py"],
    "advantages": [
        "store/queries/advantages.py",
        "store/sql/episodes.sql",
        "store/sql/stable_sum.sql",
        "store/sql/returns.sql",
        "store/sql/solo.sql",
        "store/sql/normalisations/*.sql",
        "store/sql/advantages.sql",
        "store/sql/write_advantages.sql",
    ],
    "update": [
        "stages/training/examples.py",
        "stages/mismatch/logprob_mismatch.py",
        "stages/training/lr_schedule.py",
        "stages/training*.py",
        "stages/losses/*.py",
        "stages/learners/*.py",
    ],
    "answer": ["stages/episodes/team.py"],
    "evaluate": [],
    "critic": [
        "stages/learners/value_head.py",
        "stages/learners/*.py",
        "store/queries/advantages.py",
        "store/sql/episodes.sql",
        "store/sql/stable_sum.sql",
        "store/sql/returns.sql",
    ],
    "independent_replay": ["stages/episodes/continuation.py", "stages/episodes/team.py", "store/disk/hashing.py"],
    "solo": [
        "stages/episodes/intervention.py",
        "stages/episodes/continuation.py",
        "stages/episodes/team.py",
        "stages/base/draw_tree.py",
        "store/disk/hashing.py",
    ],
    "intervention": [
        "stages/episodes/intervention.py",
        "stages/episodes/continuation.py",
        "stages/episodes/team.py",
        "store/disk/hashing.py",
    ],
    "diagnose": [
        "stages/diagnostics/metrics.py",
        "stages/diagnostics/groups.py",
        "stages/diagnostics/statistics.py",
        "store/queries/diagnostics.py",
        "store/sql/diagnose/*.sql",
    ],
}
"""What a stage's rows depend on besides its own file."""


def stages() -> list[Stage]:
    """Every stage, once."""
    return list({step.stage.name: step.stage for step in (*EVERYTHING, *INTERVENTIONS)}.values())


def meaning(stage: str) -> str:
    """Digest of the source that decides a stage's rows: its code without comments, docstrings or layout."""
    files = [ROOT / f"stages/{stage}.py", *(path for pattern in SHARED[stage] for path in sorted(ROOT.glob(pattern)))]
    return hashlib.sha256("\n".join(_essence(path) for path in files).encode()).hexdigest()[:16]


def _essence(path: Path) -> str:
    if path.suffix == ".sql":
        return "\n".join(line.strip() for line in path.read_text().splitlines() if not line.strip().startswith("--"))
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                part
                for part in body
                if not (
                    isinstance(part, ast.Expr)
                    and isinstance(part.value, ast.Constant)
                    and isinstance(part.value.value, str)
                )
            ]
    return ast.dump(tree)


@pytest.mark.parametrize("stage", stages(), ids=lambda stage: stage.name)
def test_a_changed_stage_was_considered(stage: Stage) -> None:
    recorded = json.loads(RECORD.read_text())[stage.name]
    changed = meaning(stage.name) != recorded["source"]
    assert not changed, (
        f"the source of stage '{stage.name}' changed. If its rows would now come out otherwise, raise its version "
        f"(now {stage.version}, recorded {recorded['version']}); either way run `python tests/architecture/test_stage_versions.py`"
    )
    assert stage.version == recorded["version"], (
        "the version changed: run `python tests/architecture/test_stage_versions.py`"
    )


def test_a_comment_is_no_change_and_a_constant_is(tmp_path: Path) -> None:
    before, comment, constant = (tmp_path / name for name in ("before.py", "comment.py", "constant.py"))
    before.write_text('def f():\n    """Old."""\n    return 1\n')
    comment.write_text('def f():\n    """New."""\n    # why\n    return 1\n')
    constant.write_text('def f():\n    """Old."""\n    return 2\n')
    assert _essence(before) == _essence(comment)
    assert _essence(before) != _essence(constant)


if __name__ == "__main__":
    RECORD.write_text(
        json.dumps({s.name: {"version": s.version, "source": meaning(s.name)} for s in stages()}, indent=1) + "\n"
    )
