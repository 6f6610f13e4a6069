"""An estimator is one .sql file: its header says all that C3 knows of it, and no module knows its name."""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import pytest

from configs.credit import AdvantagesConfig
from configs.errors import ConfigError, StoreError
from pipeline.commands.compare import compare
from pipeline.commands.why import explain, question_of
from pipeline.rounds.warnings import config_warnings
from pipeline.steps import round_steps
from store.queries.estimators import FOLDER, VIEWS, estimator, estimators
from tests.support.rounds import config_of, drive

ROOT = Path(__file__).parents[3]
HEADER = """-- grain: one alternative
-- reads: returns
-- baseline: half of the return that can be had at most
-- constant in group: yes
--
"""
QUERY = """select
    returns.*,
    count(*) over (partition by group_id) as group_size,
    0.5::double as baseline,
    mean_return - 0.5::double as advantage
from returns
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The estimators' folder, to add to."""
    copy = tmp_path / "estimators"
    shutil.copytree(FOLDER, copy)
    monkeypatch.setattr("store.queries.estimators.FOLDER", copy)
    return copy


@pytest.mark.parametrize("name", estimators())
def test_a_header_names_the_views_that_its_query_reads(name: str) -> None:
    statement = re.sub(r"--.*", "", estimator(name).path.read_text())
    read = {view for view in VIEWS if re.search(rf"\b(from|join)\s+{view}\b", statement)}
    assert set(estimator(name).reads) == read


def test_no_module_knows_an_estimators_name() -> None:
    known = set(estimators())
    files = [
        path
        for folder in ("store", "stages", "pipeline", "configs")
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "configs/credit.py"  # the default stands there
    ]
    found = [
        (str(path.relative_to(ROOT)), node.value)
        for path in [*files, ROOT / "cli.py"]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in known - {"c3"}
    ]
    assert found == []
    # "c3" is the program's name too: what is left of it are file names, thread names and the flow's name
    words = [
        str(path.relative_to(ROOT))
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == "c3"
    ]
    assert sorted(set(words)) == [
        "configs/environment.py",
        "configs/schema.py",
        "pipeline/deployments.py",
        "pipeline/flows/task_runners.py",
        "store/disk/locks.py",
        "store/disk/thread_pool.py",
    ]


def test_no_text_names_an_estimator() -> None:
    unmistakable = re.compile(rf"\b({'|'.join(name for name in estimators() if name != 'c3')})\b")
    files = [path for folder in ("store", "stages", "pipeline", "configs") for path in (ROOT / folder).rglob("*.py")]
    named = [str(path.relative_to(ROOT)) for path in (*files, ROOT / "cli.py") if unmistakable.search(path.read_text())]
    assert named == []


def test_an_estimator_is_added_by_adding_its_file(folder: Path, tmp_path: Path) -> None:
    (folder / "half_mark.sql").write_text(HEADER + QUERY)
    credit = AdvantagesConfig(estimator="half_mark", normalisation="group_std")
    config = config_of("duo", "tree", advantages=credit)
    assert round_steps(config).names == round_steps(config_of("duo", "tree")).names
    [warning] = config_warnings(config)  # the z-score makes it the same as the others that are constant in a group
    assert "c3, ccpo, full_mean, global_mean, half_mark and mappo become the same numbers" in warning
    plain = config.model_copy(update={"advantages": AdvantagesConfig(estimator="half_mark")})
    round = drive(tmp_path / "store", plain)
    assert {row["baseline"] for row in round.rows("advantages")} == {0.5}
    assert {row["estimator"] for row in compare(round.session).by_estimator} >= {"half_mark", "c3"}
    page = explain(round.resolver, *question_of(None, "reasoner", None, 1, None))
    arithmetic = page["groups"][0]["alternatives"][0]["arithmetic"]
    assert arithmetic[0] == "b = 0.5, half of the return that can be had at most"


def test_what_an_estimator_reads_decides_which_steps_a_round_has(folder: Path) -> None:
    (folder / "half_mark.sql").write_text(HEADER.replace("returns\n", "returns, critic_values\n", 1) + QUERY)
    config = config_of("duo", "tree", advantages=AdvantagesConfig(estimator="half_mark"))
    assert "critic" in round_steps(config).names
    assert "ablated_replay" not in round_steps(config).names


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("-- reads: returns\n-- baseline: b\n--\n", "its header has no 'grain:'"),
        (
            HEADER.replace("reads: returns", "reads: problems"),
            r"line 2: reads: 'problems' is none of returns, episodes",
        ),
        (HEADER.replace("constant in group: yes", "constant in group: often"), r"line 4: .*'often' is none of yes, no"),
        (
            HEADER.replace("constant in group", "steady"),
            r"line 4: 'steady: yes' is no line of a header; write KEY: VALUE",
        ),
        (HEADER.replace("-- constant", "-- reads: returns\n-- constant"), r"line 4: 'reads' stands there twice"),
        (
            HEADER.replace("baseline: half of the return that can be had at most", "baseline:"),
            "baseline: '' is none of",
        ),
    ],
)
def test_a_header_that_cannot_be_read_is_refused_with_its_line_and_a_cure(folder: Path, header: str, says: str) -> None:
    (folder / "half_mark.sql").write_text(header + QUERY)
    with pytest.raises(StoreError, match=says) as refused:
        estimator("half_mark")
    assert "\n" not in str(refused.value)


def test_a_header_is_read_once_until_its_file_changes(folder: Path) -> None:
    added = folder / "half_mark.sql"
    added.write_text(HEADER + QUERY)
    os.utime(added, ns=(1, 1))
    first = estimator("half_mark")
    assert estimator("half_mark") is first
    added.write_text(HEADER.replace("half of", "50% of") + QUERY)
    os.utime(added, ns=(2, 2))
    assert estimator("half_mark").baseline == "50% of the return that can be had at most"


def test_an_unknown_estimator_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no estimator named 'c4'; there is c3, ccpo, full_mean"):
        estimator("c4")
