"""Bad input: one line that says what is wrong, where, and the cure; the documented exit code; nothing lost."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from configs.errors import ConfigError
from configs.load import load_config
from configs.problems import JsonlProblems
from configs.schema import RoundConfig
from store.disk.layout import Layout
from tests.conftest import Answer
from tests.support import worlds
from tests.support.rounds import config_of, drive

Command = Callable[..., Answer]
DUO = ("--config", "scripted-duo")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs `c3 ARGUMENTS` inside this process, in an empty folder, with its store below."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("C3_STORE", str(tmp_path / "store"))

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["c3", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return Answer(int(end.value.code or 0), out, err)

    return run


def _refused(answer: Answer, code: int, *said: str) -> None:
    assert answer.out == ""
    assert answer.err.startswith("c3: ")
    assert answer.err.count("\n") == 1, answer.err
    for words in said:
        assert words in answer.err
    assert answer.code == code


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["update.learning_rat=1"], ["scripted-duo: update.learning_rat: unknown key", "check the spelling"]),
        (["updat.learning_rate=1"], ["scripted-duo: updat: unknown key"]),
        (["roles.actor.depends_on=['nobody']"], ["no role named 'nobody'; the roles are reasoner, actor"]),
        (["roles.actor.depends_on=['actor']"], ["roles.actor.depends_on: 'actor' depends on itself; remove it"]),
        (["roles.reasoner.depends_on=['actor']"], ["is a circle; unroll turns into roles of their own"]),
        (
            ["roles.actor.depends_on=[]", "roles.actor.user='{question}'"],
            ["reasoner and actor both end the graph", "make one of them depend on the other"],
        ),
        (["plan.budget=9"], ["plan.budget: 9 evaluations per problem stated", "set budget = 8 or change plan.fanout"]),
        (["plan.fanout=[8]"], ["1 fanouts for 2 roles; give one per role in speaking order (reasoner, actor)"]),
        (["plan.fanout=[0,4]"], ["plan.fanout.0", "greater than or equal to 1 (got 0)"]),
        (["roles.actor.user='{question}'"], ["roles.actor.user: the placeholder {reasoner} is missing"]),
        (
            ["roles.actor.user='{question} {reasoner} {nobody}'"],
            ["roles.actor.user: {nobody} is not visible to 'actor', which sees {question}, {reasoner}", "depends_on"],
        ),
        (["roles.actor.user='{question {reasoner}'"], ["roles.actor.user: ", "write {{ and }} for literal braces"]),
        (["roles.actor.policy='other'"], ["no policy named 'other'; there is team. Add [policies.other]"]),
        (["seed='x'"], ["seed: input should be a valid integer", "(got 'x')"]),
        (["seed"], ["--set seed: wants section.key=value, as in --set update.learning_rate=1e-4"]),
        (["=1"], ["--set =1: wants section.key=value"]),
        (["seed=[1"], ["'[1' is not a TOML value; quote the whole argument for the shell"]),
        (["roles.nobody.user='x'"], ["--set roles.nobody.user='x': nothing named 'nobody' in that list"]),
        (["seed=nan"], ["seed: "]),
        (["sampling.temperature=inf"], ["sampling.temperature: ", "finite"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_configuration_that_cannot_be_meant(command: Command, overrides: list[str], said: list[str]) -> None:
    options = [word for override in overrides for word in ("--set", override)]
    _refused(command("plan", *DUO, *options), 2, *said)
    _refused(command("run", "iteration", "--round", "1", *DUO, *options), 2, *said)
    assert not Path("store/runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--config", "nowhere.toml"], ["nowhere.toml: no such file or preset", "`c3 init` writes a file"]),
        (["plan", "--config", "."], [".: cannot be read"]),
        (["plan"], ["run 'default' has no configuration yet: give --config", "c3 init"]),
        (["plan", *DUO, "--run", "../up"], ["--run '../up': use lower-case letters, digits"]),
        (["plan", *DUO, "--run", "A"], ["--run 'A': use lower-case letters"]),
        (["plan", *DUO, "--variant", "a/b"], ["--variant 'a/b': use lower-case letters"]),
        (["run", "training", *DUO, "--rounds", "1", "--seeds", "0,x"], ["--seeds 0,x: wants whole numbers"]),
        (["run", "training", *DUO, "--rounds", "1", "--seeds", ""], ["--seeds : wants whole numbers"]),
        (
            ["run", "training", *DUO, "--rounds", "1", "--seeds", "-1"],
            ["seed: ", "greater than or equal to 0 (got -1)"],
        ),
        (["run", "stage", "nothing", *DUO, "--round", "1"], ["no such stage; there is problems, rollout, freeze"]),
        (["sql", "selec 1"], ['syntax error at or near "selec"']),
        (["sql", "select nothing from advantages"], ['Referenced column "nothing" not found']),
        (["sql", "select * from nowhere"], ["nowhere"]),
        (["sql", ""], ["one SELECT at a time"]),
        (["sql", "select 1", "--format", "parquet"], ["name the file with --output FILE.parquet"]),
        (["init", "--preset", "nothing"], ["--preset nothing: no such preset; there is arithmetic-duo"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and len(value) > 1 else "",
)
def test_a_command_that_cannot_be_meant(command: Command, arguments: list[str], said: list[str]) -> None:
    _refused(command(*arguments), 2, *said)


def test_a_file_with_broken_toml_is_named_with_its_line(command: Command) -> None:
    Path("c3.toml").write_text("[engine]\nkind = \n")
    _refused(command("plan"), 2, "c3.toml: not valid TOML", "line 2")


def test_a_file_that_is_there_is_not_written_over(command: Command) -> None:
    Path("c3.toml").write_text("mine")
    _refused(command("init"), 2, "c3.toml: is there already; choose another name, or remove it first")
    assert Path("c3.toml").read_text() == "mine"


def test_a_round_whose_predecessor_has_not_run(command: Command) -> None:
    answer = command("run", "iteration", *DUO, "--round", "3")
    _refused(answer, 3, "round 2 is needed, but that round has not run", "`c3 run iteration --run default --round 2`")
    assert not Path("store/artifacts").exists()


def test_a_stage_whose_inputs_have_not_run(command: Command) -> None:
    answer = command("run", "stage", "advantages", *DUO, "--round", "1")
    _refused(answer, 3, "advantages of round 1 needs rollout, which has not run", "`c3 run stage rollout")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([], "holds no config.json"),
        (["config.json", "tokenizer_config.json"], "holds no weights"),
        (None, "is not a directory"),
    ],
)
def test_a_model_directory_that_is_not_one(command: Command, held: list[str] | None, said: str) -> None:
    if held is not None:
        Path("model").mkdir()
        for name in held:
            Path("model", name).write_text("{}")
    answer = command("run", "iteration", *DUO, "--round", "1", "--set", "engine={kind='transformers', model='./model'}")
    _refused(answer, 4, "engine.model: model", said)
    assert not Path("store/artifacts").exists()


def test_a_store_below_a_file(command: Command) -> None:
    Path("file").write_text("mine")
    answer = command("run", "iteration", *DUO, "--round", "1", "--store", "file/store")
    _refused(answer, 3, "file/store", "Not a directory", "choose another store with --store")
    assert Path("file").read_text() == "mine"


def test_a_store_that_cannot_be_written(command: Command) -> None:
    # the tests may run as root, whom permissions do not stop; /proc stops everyone
    answer = command("run", "iteration", *DUO, "--round", "1", "--store", "/proc/c3")
    _refused(answer, 3, "/proc/c3", "choose another store")


def test_no_permission_is_said_as_such(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    answer = command("run", "iteration", *DUO, "--round", "1")
    _refused(answer, 3, "no permission to write; choose another store with --store")


def test_a_corrupt_record_is_named(command: Command, tmp_path: Path) -> None:
    path = Layout(tmp_path / "store").run("default") / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    _refused(command("plan"), 3, "run.json: corrupt", "put back a copy, or delete it")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"question": "q", "answer": "{}"}', '{"question": '], "problems.jsonl: line 2: broken JSON"),
        (
            ['{"question": "q"}'],
            "problems.jsonl: line 1: no field 'answer'; there is question: set problems.answer_field",
        ),
        (
            [json.dumps({"id": "one", "question": question, "answer": "{}"}) for question in "ab"],
            "problems.jsonl: line 2: field 'id': the id 'one' is also that of line 1",
        ),
        ([], "problems.jsonl: no problems in it"),
    ],
    ids=["broken line", "missing field", "duplicate id", "empty file"],
)
def test_a_problem_file_that_cannot_be_read(store: Path, tmp_path: Path, lines: list[str], said: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(lines))
    problems = JsonlProblems(path=str(path), id_field="id" if "duplicate" in said or '"id"' in "".join(lines) else None)
    config = config_of("duo", "tree").model_copy(
        update={"problems": problems, "rounds": RoundConfig(problems_per_round=1)}
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        drive(store, config)
    assert [path.name for path in (store / "artifacts").rglob("*") if path.is_file()] == []


def test_the_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["c3", "--debug", "plan", "--config", "nowhere.toml"])
    with pytest.raises(ConfigError):
        cli.main()


def test_a_command_as_a_process_prints_one_line_and_no_traceback(c3: Command) -> None:
    answer = c3("plan", *DUO, "--set", "plan.budget=9")
    _refused(answer, 2, "plan.budget: 9 evaluations per problem stated")


def test_a_refused_import_leaves_no_run_and_no_configuration_behind(command: Command, tmp_path: Path) -> None:
    file, layout = tmp_path / "theirs.jsonl", Layout(tmp_path / "store")
    file.write_text('{"problem_id": "nobody", "messages": {}}\n')
    taking = ("import", str(file), "--run", "taken", "--round", "1", *DUO)
    _refused(command(*taking), 2, "line 1: problem_id 'nobody' is not in the run's problem set")
    assert not layout.run("taken").exists()
    _refused(command("import", str(tmp_path / "none.jsonl"), *taking[2:]), 2, "no such file")
    assert not layout.run("taken").exists()
    # of a run that is there, it changes nothing
    drive(layout.root, config_of("duo", "tree"), run="taken", until="problems")
    before = {path: path.read_bytes() for path in layout.run("taken").rglob("*.json")}
    _refused(command(*taking, "--set", "seed=5"), 2, "line 1: problem_id 'nobody'")
    assert {path: path.read_bytes() for path in layout.run("taken").rglob("*.json")} == before


def test_a_run_that_is_not_there_is_named_beside_those_that_are(command: Command, tmp_path: Path) -> None:
    drive(tmp_path / "store", worlds.duo(), run="default", until="problems")
    answer = command("status", "--run", "nope")
    assert (answer.code, answer.err) == (2, "c3: --run nope: no such run; there is default\n")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("grade.evaluator={kind='table', nothing=1}", "grade.evaluator.nothing"),
        ("grade.evaluator={kind='number', mark=3}", "grade.evaluator.mark"),
        ("engine={kind='scripted', spread='wide'}", "engine.spread"),
        ("problems={source='scripted', count='many'}", "problems.count"),
    ],
)
def test_a_key_below_a_union_is_named_as_it_is_written(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^scripted-duo: {re.escape(key)}: "):
        load_config("scripted-duo", [override])
