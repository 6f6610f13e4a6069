"""Problems from a file: one JSON object a line, or one JSON array of objects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, MissingFileError
from configs.problems import JsonlProblems
from stages.problem_sources.protocol import Problem
from store.disk.hashing import file_digest
from store.disk.ids import short_id

VERSION = 1
"""Raised by hand when the same file and settings give other problems: it is in the keys of the problems stage."""


def problems(config: JsonlProblems) -> list[Problem]:
    """Return the file's problems in its order. ConfigError naming file, line, field and cure when one cannot be used.

    Blank lines are skipped. Answers that are not text become text: numbers as Python writes them (51.0),
    objects and lists as canonical JSON.
    """
    path = Path(config.path)
    read: list[Problem] = []
    seen_at: dict[str, str] = {}
    times_asked: Counter[str] = Counter()
    for where, row in _rows(path, _text(path)):
        texts = _question_and_answer(config, row, where)
        if texts is None:
            continue
        question, answer = texts
        problem_id = _problem_id(config, row, where, question, times_asked[question])
        if problem_id in seen_at:
            raise ConfigError(
                f"{where}: field '{config.id_field}': the id '{problem_id}' is also that of "
                f"{seen_at[problem_id]}; ids are unique: correct it, or leave id_field out"
            )
        seen_at[problem_id] = where.removeprefix(f"{path}: ")
        times_asked[question] += 1
        read.append(Problem(problem_id, _suite(config), question, answer))
        if len(read) == config.limit:
            break
    if not read:
        raise ConfigError(f"{path}: no problems in it; one JSON object per line is wanted, or a JSON array of objects")
    return read


def identity(config: JsonlProblems) -> dict[str, Any]:
    """Return the file's sha256 and how it is read, not its path. ConfigError when it cannot be read, MissingFileError
    when it is not there.
    """
    path = Path(config.path)
    try:
        content = file_digest(path)
    except FileNotFoundError as error:
        raise MissingFileError(_unreadable(path, error)) from None
    except OSError as error:
        raise ConfigError(_unreadable(path, error)) from None
    return {**config.model_dump(mode="json", exclude={"path"}), "suite": _suite(config), "sha256": content}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read: {error.strerror}; problems.path is relative to {Path.cwd()}"


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield where each object stands ("FILE: line 3"), and the object."""
    if text.lstrip().startswith("["):
        items = _parsed(text, f"{path}: the JSON array")
        yield from ((f"{path}: item {number}", item) for number, item in enumerate(items, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would cut inside strings, at U+2028
        if line.strip():
            where = f"{path}: line {number}"
            yield where, _parsed(line, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise ConfigError(f"{where}: broken JSON: {error.msg} at {place}; correct or remove it") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, nesting without end
        raise ConfigError(f"{where}: JSON that cannot be held: {error}; correct or remove it") from None


def _question_and_answer(config: JsonlProblems, row: Any, where: str) -> tuple[str, str] | None:
    """Return one row's texts; None when it has no answer and such rows are skipped."""
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a JSON object is wanted, this is {_kind(row)}; correct or remove it")
    fields = (config.question_field,) if isinstance(config.question_field, str) else config.question_field
    question = " ".join(_string(row, field, where, "question_field") for field in fields).strip()
    if not question:
        raise ConfigError(f"{where}: field '{' '.join(fields)}': the question is empty; fill it in or remove the line")
    answer = _answer(config, row, where)
    if answer:
        return question, answer
    if config.empty_answers == "skip":
        return None
    raise ConfigError(
        f"{where}: field '{config.answer_field}': the answer is empty, nothing could be graded; fill it in, "
        f'or set problems.empty_answers = "skip"'
    )


def _problem_id(config: JsonlProblems, row: dict[str, Any], where: str, question: str, times_before: int) -> str:
    """Return what `id_field` says; without it the hash of the question, and of how often the file asked it before."""
    if config.id_field is None:
        return f"{_suite(config)}-{short_id('question', question, times_before)}"
    problem_id = _string(row, config.id_field, where, "id_field")
    if not problem_id:
        raise ConfigError(f"{where}: field '{config.id_field}': the id is empty; fill it in, or leave id_field out")
    return problem_id


def _answer(config: JsonlProblems, row: dict[str, Any], where: str) -> str:
    answer = _string(row, config.answer_field, where, "answer_field")
    if config.answer_after is None or not answer.strip():
        return answer.strip()
    _, mark, after = answer.rpartition(config.answer_after)
    if not mark:
        raise ConfigError(
            f"{where}: field '{config.answer_field}': '{config.answer_after}' (answer_after) is not in it; "
            f"correct the line or the setting"
        )
    return after.strip()


def _string(row: dict[str, Any], field: str, where: str, setting: str) -> str:
    """Return the field as text; null is empty text."""
    value: Any = row
    if field in row:  # a name with a dot in it comes before a path
        value = row[field]
    else:
        for name in field.split("."):
            if not isinstance(value, dict) or name not in value:
                known = ", ".join(row)
                raise ConfigError(f"{where}: no field '{field}'; there is {known or 'none'}: set problems.{setting}")
            value = value[name]
    text = _as_text(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{where}: field '{field}': half a surrogate pair, which is no text; correct the line"
        ) from None
    return text


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return str(value)


def _suite(config: JsonlProblems) -> str:
    return config.suite or Path(config.path).stem


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "a number"
