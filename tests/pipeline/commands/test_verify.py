"""`c3 verify` on stores that were forged: every file is what its records say, and what they say is not true.

Rows are rewritten by the store's own writers and recorded anew, so that only a look at what they mean can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pyarrow as pa
import pytest

from configs.schema import Config
from configs.training import UpdateConfig
from pipeline.commands.verify import verify
from store.artifacts.artifact import MANIFEST, PART_RECORD, Row, load_manifest, write_table
from store.artifacts.schemas import TABLES
from store.artifacts.writer import ArtifactWriter, sync_and_describe
from store.disk.layout import Layout
from store.disk.records import read_record, write_record
from store.queries.connection import SQL
from store.runs.records import RoundRecord, RoundRef, edit_round, record_config
from tests.support import worlds
from tests.support.rounds import drive

Change = Callable[[list[Row]], list[Row]]
LINEAGE = {path.stem: path.read_text().splitlines()[0].removeprefix("-- ") for path in (SQL / "lineage").glob("*.sql")}


def _config() -> Config:
    return worlds.duo(update=UpdateConfig(minibatches=2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with two rounds. For reading only."""
    store = tmp_path_factory.mktemp("whole") / "store"
    for round in (1, 2):
        drive(store, _config(), round)
    return store


@pytest.fixture
def forged(whole: Path, store: Path) -> Path:
    """Return a copy of it, to be forged."""
    copytree(whole, store)
    return store


def _folder(store: Path, step: str, round: int = 2) -> Path:
    entry = RoundRecord.load(Layout(store), RoundRef("test", round)).steps[step]
    return Layout(store).artifact(entry.stage, entry.key)


def _record(path: Path) -> dict[str, Any]:
    record = read_record(path)
    assert record is not None
    return record


def _forge(store: Path, step: str, table: str, change: Change, content: bool, round: int = 2) -> None:
    """Other rows in a table's first part, recorded as if they had been written.

    content: in the manifest's rows and content digests too; without, only in the digests of the files.
    """
    folder = _folder(store, step, round)
    path = folder / "part-00000" / f"{table}.parquet"
    artifact = load_manifest(Layout(store), folder.parent.name, folder.name)
    assert artifact is not None
    rows = change(artifact.rows(table)) if len(artifact.parts()) == 1 else change(_rows(path))
    write_table(path, pa.Table.from_pylist(rows, TABLES[table]))
    _record_anew(store, folder, content)


def _rows(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def _record_anew(store: Path, folder: Path, content: bool, **described_as: Any) -> None:
    """Write the records of a part and of its artifact anew, as they follow from the files that are there."""
    part = folder / "part-00000"
    record, manifest = _record(part / PART_RECORD), _record(folder / MANIFEST)
    record["files"] = {name: entry for name, entry in sync_and_describe(part, {}).items() if name != PART_RECORD}
    write_record(part / PART_RECORD, record)
    parts = [record, *manifest["parts"][1:]]
    if not content:
        write_record(folder / MANIFEST, {**manifest, "parts": parts, **described_as})
        return
    told = {name: manifest[name] for name in ("cache_key_inputs", "inputs", "libraries", "created_for", "created_at")}
    ArtifactWriter(Layout(store), folder.parent.name, folder.name).finish(parts, told | described_as)


def _found(store: Path) -> dict[str, str]:
    """Step and round -> what verify finds wrong there."""
    findings = [finding for _, finding in verify(Layout(store)) if finding is not None]
    return {finding.place.removeprefix("run test round ").replace(" main", ""): finding.problem for finding in findings}


def _all(**columns: Any) -> Change:
    return lambda rows: [row | columns for row in rows]


def _first_group(**columns: Any) -> Change:
    """Other values in the first row's whole group."""
    return lambda rows: [row | columns if row["group_id"] == rows[0]["group_id"] else row for row in rows]


def _first(**columns: Any) -> Change:
    return lambda rows: [rows[0] | columns, *rows[1:]]


def _drop(rows: list[Row]) -> list[Row]:
    return rows[1:]


def test_a_store_forged_to_the_rows_it_had_is_whole(forged: Path) -> None:
    _forge(forged, "grade", "rewards", lambda rows: rows, content=True)
    assert _found(forged) == {}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_drop, "rewards holds {less} rows, not {rows}"),
        (_first(reason="because"), "the rows of rewards are not those that were written (content digest)"),
    ],
)
def test_rows_that_only_the_files_digests_were_recorded_of_are_found_by_number_and_content(
    forged: Path, change: Change, problem: str
) -> None:
    rows = _record(_folder(forged, "grade") / MANIFEST)["tables"]["rewards"]["rows"]
    _forge(forged, "grade", "rewards", change, content=False)
    assert _found(forged) == {"2 grade": problem.format(rows=rows, less=rows - 1)}


def test_rows_that_break_a_stages_check_are_found_by_its_name_and_the_first_offence(forged: Path) -> None:
    _forge(forged, "grade", "rewards", _drop, content=True)
    found = _found(forged)
    check = "every_episode_is_graded_once"
    [file] = (SQL / "checks").glob(f"**/{check}.sql")
    claim = file.read_text().splitlines()[0].removeprefix("-- ")
    assert found.pop("2 grade").startswith(f"check grade/{check} failed: {claim}; first offence: episode_id ")
    assert found == {"2 advantages": "its input grade now has other rows than it was made from"}


@pytest.mark.parametrize(
    ("claim", "change", "offence"),
    [
        ("advantages_reach_their_problems", _first(decision_id="nobody"), "has_message False"),
        ("advantages_reach_their_problems", _first_group(state_id="nowhere"), "has_context False"),
        ("messages_are_of_one_team", _all(policy_version="another"), "credited another"),
    ],
    ids=["message", "context", "policy"],
)
def test_advantages_that_lead_nowhere_are_found_by_the_step_of_the_lineage(
    forged: Path, claim: str, change: Change, offence: str
) -> None:
    _forge(forged, "advantages", "advantages", change, content=True)
    found = _found(forged)
    problem = found.pop("2 advantages")
    assert problem.startswith(f"check lineage/{claim} failed: {LINEAGE[claim]}; first offence: ")
    assert offence in problem
    assert found == {"2 update": "its input advantages now has other rows than it was made from"}


def test_advantages_whose_problem_is_nowhere_are_found_by_the_step_of_the_lineage(forged: Path) -> None:
    _forge(forged, "problems", "problems", _drop, content=True)
    claim = "advantages_reach_their_problems"
    problem = _found(forged)["2 advantages"]
    assert problem.startswith(f"check lineage/{claim} failed: {LINEAGE[claim]}; first offence: ")
    assert "has_problem False" in problem


def test_every_step_of_the_lineage_is_tried_here() -> None:
    assert set(LINEAGE) == {"advantages_reach_their_problems", "messages_are_of_one_team"}


def test_an_input_that_is_gone_or_of_other_rows_is_named_by_what_was_made_from_it(forged: Path) -> None:
    sample = _folder(forged, "sample")
    rmtree(sample)
    found = _found(forged)
    gone = f"its input sample (sample {sample.name[:12]}) is gone, so its lineage cannot be followed"
    assert {place: found[place] for place in ("2 replay", "2 advantages", "2 update")} == dict.fromkeys(
        ("2 replay", "2 advantages", "2 update"), gone
    )
    drive(forged, _config(), 2)
    assert _found(forged) == {}
    _forge(forged, "freeze", "contexts", _drop, content=True)
    other = "its input freeze now has other rows than it was made from"
    found = _found(forged)
    assert {found[place] for place in ("2 sample", "2 replay", "2 update")} == {other}


# ---- back to the policy


def _lost(store: Path, why: str) -> str:
    version = _record(_folder(store, "sample") / MANIFEST)["cache_key_inputs"]["policy"]
    update = _folder(store, "update", 1)
    return f"the policy {version} it was sampled by cannot be followed: update {update.name[:12]} of round 1 {why}"


def test_advantages_whose_policy_no_round_records_are_named(forged: Path) -> None:
    expected = _lost(forged, "").partition(": update ")[0] + ": no update is recorded in round 1"
    record = Layout(forged).round("test", "main", 1)
    steps = _record(record)["steps"]
    write_record(record, {**_record(record), "steps": {name: steps[name] for name in steps if name != "update"}})
    assert _found(forged)["2 advantages"] == expected


def test_advantages_whose_policy_is_gone_are_named(forged: Path) -> None:
    expected = _lost(forged, "is gone")
    rmtree(_folder(forged, "update", 1))
    found = _found(forged)
    assert found.pop("2 advantages") == expected
    assert list(found) == ["1 update"]


def test_advantages_whose_policy_is_corrupt_are_named(forged: Path) -> None:
    file = _folder(forged, "update", 1) / "part-00000/weights/team/table.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert _found(forged)["2 advantages"] == _lost(forged, "is corrupt")


def test_advantages_whose_policy_now_has_other_weights_are_named(forged: Path) -> None:
    folder = _folder(forged, "update", 1)
    file = folder / "part-00000/weights/team/table.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    _record_anew(forged, folder, content=True)
    assert _found(forged) == {"2 advantages": _lost(forged, "now has other weights")}


def test_a_round_before_that_was_drawn_anew_is_no_corruption(forged: Path) -> None:
    with edit_round(Layout(forged), RoundRef("test", 1)) as record:
        record.draw_set = 1
    drive(forged, _config(), 1)
    assert _found(forged) == {}


def test_a_round_made_under_a_configuration_that_was_replaced_is_whole(forged: Path) -> None:
    # planned now: other episodes of other roles; `c3 status` calls the round stale, but nothing of it is corrupt
    record_config(Layout(forged), "test", 1, worlds.trio().model_dump(mode="json"))
    assert [finding for _, finding in verify(Layout(forged)) if finding] == []
    # what no plan has a say in is still looked at, however well the forger recorded it
    _forge(forged, "grade", "rewards", lambda rows: [*rows, rows[-1]], content=True)
    assert "every_episode_is_graded_once" in _found(forged)["2 grade"]


def test_a_corrupt_record_of_a_run_is_no_fault_of_another_that_shares_its_artifacts(forged: Path) -> None:
    copytree(forged / "runs/test", forged / "runs/other")
    (forged / "runs/other/run.json").write_text("{")
    places = {finding.place.split()[1] for _, finding in verify(Layout(forged)) if finding}
    assert places == {"other"}
