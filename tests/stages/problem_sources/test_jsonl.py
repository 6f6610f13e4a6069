"""Problem files good and bad, and overlap between sets."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.problems import JsonlProblems
from stages.problem_sources.overlap import normalised, overlap
from stages.problem_sources.protocol import Problem
from stages.problem_sources.registry import load_problems, source_identity

DATA = Path(__file__).parents[4] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not on this machine")


def _file(tmp_path: Path, text: str | bytes, name: str = "set.jsonl") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def _load(path: str, **settings: Any) -> list[Problem]:
    return load_problems(JsonlProblems(path=path, **settings))


# files

GOOD = '{"question": "a?", "answer": "1"}\n{"question": "b?", "answer": "2"}\n'


def test_lines_of_objects_become_problems(tmp_path: Path) -> None:
    first, second = _load(_file(tmp_path, GOOD))
    assert (first.suite, first.question, first.answer) == ("set", "a?", "1")
    assert first.problem_id.startswith("set-") and first.problem_id != second.problem_id
    assert _load(_file(tmp_path, GOOD), suite="mine", limit=1)[0].suite == "mine"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\n\n \n"),
        "\ufeff" + GOOD,
        json.dumps([json.loads(line) for line in GOOD.splitlines()], indent=2),
    ],
)
def test_line_ends_blank_lines_a_byte_order_mark_and_arrays_make_no_difference(tmp_path: Path, text: str) -> None:
    assert _load(_file(tmp_path, text)) == _load(_file(tmp_path, GOOD, "other.jsonl"), suite="set")


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    assert _load(_file(tmp_path, '{"question": "a\u2028b\x85", "answer": "1"}'))[0].question == "a\u2028b"


def test_fields_are_mapped_nested_joined_and_cut_after_the_mark(tmp_path: Path) -> None:
    row = {"item": {"text": "Two apples."}, "ask": "How many?", "a.b": "so 1 #### 1, no #### 2 ", "id": 7}
    [problem] = _load(
        _file(tmp_path, json.dumps(row)),
        question_field=("item.text", "ask"), answer_field="a.b", id_field="id", answer_after="####",
    )  # fmt: skip
    assert problem == Problem("7", "set", "Two apples. How many?", "2")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("51.0", "51.0"),
        ("51", "51"),
        ('"51"', "51"),
        ('{"b": 1, "a": "é"}', '{"a":"é","b":1}'),
        ("true", "True"),
    ],
)
def test_answers_that_are_no_text_become_text(tmp_path: Path, answer: str, text: str) -> None:
    assert _load(_file(tmp_path, f'{{"question": "a?", "answer": {answer}}}'))[0].answer == text


def test_a_question_asked_twice_is_two_problems(tmp_path: Path) -> None:
    ids = [problem.problem_id for problem in _load(_file(tmp_path, GOOD + GOOD))]
    assert len(set(ids)) == 4
    assert ids[:2] == [problem.problem_id for problem in _load(_file(tmp_path, GOOD))]


def test_rows_without_an_answer_can_be_left_out(tmp_path: Path) -> None:
    empty = '{"question": "c?", "answer": ""}\n{"question": "d?", "answer": null}\n'
    assert len(_load(_file(tmp_path, empty + GOOD), empty_answers="skip", answer_after=None)) == 2
    assert len(_load(_file(tmp_path, empty + GOOD), empty_answers="skip", limit=2)) == 2


BAD_FILES: list[tuple[str | bytes, dict[str, Any], str]] = [
    ("", {}, r"set\.jsonl: no problems in it; one JSON object per line"),
    ("\n \n", {}, r"set\.jsonl: no problems in it"),
    ("[]", {}, r"set\.jsonl: no problems in it"),
    (
        GOOD + '{"question": "c?"',
        {},
        r"set\.jsonl: line 3: broken JSON: .* at column 18; correct or remove it",
    ),
    ('[{"question": "c?"},\n oops]', {}, r"the JSON array: broken JSON: .* at line 2, column 2"),
    (GOOD + "[1]", {}, r"line 3: a JSON object is wanted, this is an array"),
    ('"text"', {}, r"line 1: a JSON object is wanted, this is a string"),
    ("[null]", {}, r"item 1: a JSON object is wanted, this is null"),
    (
        GOOD + '{"question": "c?"}',
        {},
        r"line 3: no field 'answer'; there is question: set problems\.answer_field",
    ),
    (GOOD, {"question_field": "problem"}, r"line 1: no field 'problem'; .* set problems\.question_field"),
    (GOOD, {"question_field": "question.text"}, r"line 1: no field 'question\.text'"),
    (GOOD, {"id_field": "id"}, r"line 1: no field 'id'; .* set problems\.id_field"),
    ('{"question": " ", "answer": "1"}', {}, r"line 1: field 'question': the question is empty"),
    (
        GOOD + '{"question": "c?", "answer": ""}',
        {},
        r"line 3: field 'answer': .* empty.* set problems\.empty_answers",
    ),
    ('{"question": "c?", "answer": null}', {}, r"line 1: field 'answer': the answer is empty"),
    ('{"question": "c?", "answer": "#### "}', {"answer_after": "####"}, r"line 1: field 'answer': .* empty"),
    (GOOD, {"answer_after": "####"}, r"line 1: field 'answer': '####' \(answer_after\) is not in it"),
    (
        '{"question": "c?", "answer": "1", "id": ""}',
        {"id_field": "id"},
        r"line 1: field 'id': the id is empty",
    ),
    (
        '{"question": "c?", "answer": "1", "id": 5}\n{"question": "d?", "answer": "1", "id": "5"}',
        {"id_field": "id"},
        r"line 2: field 'id': the id '5' is also that of line 1; ids are unique",
    ),
    (
        GOOD.encode() + b'{"question": "\xff"}',
        {},
        r"set\.jsonl: line 3: not UTF-8 .*; save the file as UTF-8",
    ),
    ('{"question": "\\ud834?", "answer": "1"}', {}, r"line 1: field 'question': half a surrogate pair"),
    ('{"question": "c?", "answer": {"x": "\\ud834"}}', {}, r"line 1: field 'answer': half a surrogate pair"),
    ('{"question": "c?", "answer": ' + "9" * 5000 + "}", {}, r"line 1: JSON that cannot be held"),
    ('{"question": ' + "[" * 100_000, {}, r"line 1: JSON that cannot be held"),
]


@pytest.mark.parametrize(("content", "settings", "message"), BAD_FILES)
def test_a_bad_file_is_refused_with_its_place_and_cure(
    tmp_path: Path, content: str | bytes, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _load(_file(tmp_path, content), **settings)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path):
        for read in (load_problems, source_identity):
            with pytest.raises(ConfigError, match=r"cannot be read: .*; problems\.path is relative to"):
                read(JsonlProblems(path=str(path)))


@given(content=st.binary() | st.text().map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with suppress(ConfigError):
        _load(_file(tmp_path_factory.mktemp("any"), content))


def test_a_files_key_holds_its_content_and_mapping_but_not_its_place(tmp_path: Path) -> None:
    here, there = _file(tmp_path, GOOD), _file(tmp_path, GOOD, "other.jsonl")
    assert source_identity(JsonlProblems(path=here, suite="s")) == source_identity(JsonlProblems(path=there, suite="s"))
    identity = source_identity(JsonlProblems(path=here))
    assert "path" not in identity and identity["suite"] == "set"
    assert identity != source_identity(JsonlProblems(path=here, limit=1))
    Path(here).write_text(GOOD + GOOD)
    assert identity != source_identity(JsonlProblems(path=here))


# overlap


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many apples?", "how  many\napples"),
        ("Tom's 3 pens", "tom s 3 pens!"),
        ("小明有３个苹果，吃了1个？", "小明有3个苹果 吃了1个"),
        ("cafe\u0301", "café"),
        ("STRASSE", "straße"),
        ("one\u200b two\u00ad", "one two"),
        ("7 - 5", "7-5"),
        ("1,000 apples.", "1,000 apples"),
    ],
)
def test_wording_that_differs_in_form_alone_is_the_same(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("7 - 5", "7 + 5"),
        ("7 - 5", "7 5"),
        ("1.5", "15"),
        ("3/4", "3 4"),
        ("2 * 3", "2 / 3"),
        ("a 1", "a 2"),
        ("ab", "a b"),
    ],
)
def test_what_asks_for_something_else_is_not(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_normalises_and_only_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_overlap_lists_every_pair_that_asks_the_same() -> None:
    def ask(prefix: str, *questions: str) -> list[Problem]:
        return [Problem(f"{prefix}{place}", prefix, question, "1") for place, question in enumerate(questions)]

    train, heldout = ask("t", "A?", "b", "a"), ask("h", "c", "a!", "B")
    assert overlap(train, heldout) == [("t0", "h1"), ("t2", "h1"), ("t1", "h2")]


# the public sets


@needs_data
def test_gsm8k_is_read_and_its_splits_do_not_overlap() -> None:
    train = _load(str(DATA / "gsm8k/train.jsonl"), answer_after="#### ", suite="gsm8k")
    test = _load(str(DATA / "gsm8k/test.jsonl"), answer_after="#### ", suite="gsm8k")
    assert (len(train), len(test), train[0].answer) == (7473, 1319, "72")
    assert overlap(train, test) == []


@needs_data
def test_math_has_two_rows_without_an_answer_and_no_overlap_with_math500() -> None:
    settings = {"question_field": "problem", "id_field": "unique_id"}
    with pytest.raises(ConfigError, match="line 7037: field 'answer': the answer is empty"):
        _load(str(DATA / "math/train.jsonl"), **settings)
    train = _load(str(DATA / "math/train.jsonl"), **settings, empty_answers="skip")
    test = _load(str(DATA / "math500/test.jsonl"), **settings)
    assert (len(train), len(test)) == (7498, 500)
    assert overlap(train, test) == []


@needs_data
def test_svamp_is_an_array_whose_question_is_in_two_fields() -> None:
    problems = _load(
        str(DATA / "svamp/SVAMP.json"),
        question_field=("Body", "Question"),
        answer_field="Answer",
        id_field="ID",
    )
    assert (len(problems), problems[0].problem_id, problems[0].answer) == (1000, "chal-1", "51.0")


@needs_data
def test_three_problems_of_cmath_dev_are_in_its_test_set() -> None:
    dev = _load(str(DATA / "cmath/cmath_dev.jsonl"), question_field="input", answer_field="golden")
    test = _load(str(DATA / "cmath/test.jsonl"), answer_field="golden")
    assert (len(dev), len(test)) == (600, 1098)
    assert len(overlap(dev, test)) == 3
