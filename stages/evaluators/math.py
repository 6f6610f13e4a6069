"""The math evaluator: math-verify decides whether the message's answer equals the reference.

math-verify hands text to a computer algebra system, where a short string (9^{9^{9^9}}) can take all time and
memory, and its own time limit works on the main thread alone. So it runs in a child process that is killed when
it takes too long: any thread may grade, and no message can stop a stage. It is not a sandbox: it bounds time and
memory, and the text is never executed.

A message in which nothing can be read earns 0. An answer that math-verify fails on, or takes too
long for, is not graded: NULL, because whether it is right is unknown. What is read: the last \\boxed{}, else a formula in
$...$, else a plain number or expression, as math-verify finds them. Boxes within some fifty characters of
each other are read as one set of answers, so hedging earns nothing. The reference is read as if in a box.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from importlib.util import find_spec
from threading import Lock
from typing import IO, Any

from configs.errors import ConfigError
from configs.evaluators import MathEvaluator
from stages.evaluators.protocol import Grade
from stages.evaluators.quoting import quote, storable
from stages.problem_sources.protocol import Problem
from stages.runtime.child_processes import child_search_path

VERSION = 1
"""Raised by hand when some answer gets another grade: it is in the keys of the grade stage."""

SECONDS = 20
"""Per answer, a hundred times what the slowest of MATH-500 takes: more than that is a hang, not a slow machine."""
START_SECONDS = 120
MEMORY_BYTES = 4 * 2**30
LONGEST = 20_000
"""Characters of a message that are read, from its end: extraction is by regular expressions, and answers come last."""

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from stages.evaluators.math import serve
serve()
"""


class MathGrader:
    """Give 1 when math-verify finds message and answer equal, else 0. One child process, started at the first answer."""

    def __init__(self) -> None:
        """Start nothing yet. ConfigError when math-verify is not installed."""
        if find_spec("math_verify") is None:
            raise ConfigError(
                'grade.evaluator: kind = "math" needs math-verify; install c3[math], or use kind = "number"'
            )
        self._child: _Child | None = None
        self._lock = Lock()  # one child, one question at a time

    def grade(self, output: str, problem: Problem) -> Grade:
        """Grade one message; parsed_answer: the expression as math-verify read it.

        ValueError when the reference cannot be read, RuntimeError when math-verify fails, TimeoutError when it takes
        too long.
        """
        reply = self._ask({"answer": storable(problem.answer), "output": storable(output[-LONGEST:])})
        if reply["answer"] is None:
            raise ValueError(
                f"problem {problem.problem_id}: math-verify cannot read the answer {quote(problem.answer)}"
            )
        if reply["output"] is None:
            return Grade(0.0, "no mathematical answer in the message", None)
        if reply["equal"]:
            return Grade(1.0, "equal", reply["output"])
        return Grade(0.0, f"{quote(reply['output'])} is not {quote(reply['answer'])}", reply["output"])

    def close(self) -> None:
        """End the child process; the next answer starts another."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _ask(self, question: dict[str, str]) -> Any:
        with self._lock:
            if self._child is None:
                self._child = _Child()
            try:
                return self._child.ask(question)
            except (RuntimeError, TimeoutError):
                self.close()
                raise


def make(config: MathEvaluator) -> MathGrader:
    """Return the evaluator. ConfigError when math-verify is not installed."""
    return MathGrader()


class _Child:
    """Run math-verify in a process: one line of JSON in, one line of JSON out."""

    def __init__(self) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(child_search_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.stop = weakref.finalize(self, _stop, self._process, self._errors)
        self._answer(START_SECONDS)  # its imports take seconds, and are nobody's answer

    def ask(self, question: dict[str, str]) -> Any:
        """Return its reply. RuntimeError with its last output when it died, TimeoutError when it takes too long."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"math-verify: {self._last_output()}") from None
        return self._answer(SECONDS)

    def _answer(self, seconds: float) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(stdout, selectors.EVENT_READ)
            if not waiting.select(seconds):
                raise TimeoutError(f"math-verify gave no answer within {seconds} seconds")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"math-verify: {self._last_output()}")
        return json.loads(line)

    def _last_output(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return quote(lines[-1]) if lines else f"its process ended with code {code}"


def _stop(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        if stream is not None:
            with suppress(BrokenPipeError):  # it died before it read the question
                stream.close()


def serve() -> None:
    """Answer questions in the child process. An exception ends it: the parent reports its last line and starts another."""
    import logging
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)  # its warnings are about the time limit that the parent keeps
    from math_verify import verify

    replies = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no reply
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        signal.alarm(2 * SECONDS)  # in case the parent is no longer there to end it
        question = json.loads(line)
        answer, output = _read(f"\\boxed{{{question['answer']}}}"), _read(question["output"])
        equal = bool(answer and output) and verify(answer, output, timeout_seconds=None, raise_on_error=True)
        shown = {"answer": _shown(answer), "output": _shown(output), "equal": equal}
        signal.alarm(0)
        print(json.dumps(shown), file=replies, flush=True)


def _read(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    readings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return list(parse(text, extraction_config=readings, parsing_timeout=None))


def _shown(parsed: list[Any]) -> str | None:
    # the last reading is the matched text itself: printing an expression can take longer than comparing it
    return storable(str(parsed[-1]))[:200] if parsed else None
