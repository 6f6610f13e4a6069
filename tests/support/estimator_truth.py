"""How good an estimator is, measured on worlds whose Q and V are known exactly.

Thousands of copies of a world's problems are played by the exact probabilities of `Truth`, credited by the real .sql
files (learned values by the real value heads), and held against t = Q - V and the true policy gradient. Axes: M copies,
J alternatives, P policy parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from configs.credit import CriticConfig
from configs.problems import ScriptedProblems
from configs.schema import Config
from stages.learners.value_head import cross_fitted
from stages.models.scripted_world import Vector
from stages.problem_sources.protocol import Problem
from stages.problem_sources.registry import load_problems
from store.queries.advantages import advantages, open_returns, stored_returns
from store.queries.estimators import estimator as find_estimator
from tests.support.stored_rounds import Ending, Values, samples, solo_samples, valued
from tests.support.worlds import Truth, Upstream, diamond, duo, solo, trio

Matrix = npt.NDArray[np.float64]
Said = tuple[str, ...]
Reward = Callable[[Said], float]
"""What an episode of these words earns; an empty word is a message taken away."""


class RewardedTruth(Truth):
    """A world whose reward is a function of everything that was said, not of the last word alone."""

    def __init__(self, config: Config, reward: Reward) -> None:
        super().__init__(config)
        self._reward = reward

    def q(self, problem: Problem, upstream: Upstream) -> Vector:
        """Q(h, a) of the next role's words, [W]."""
        said = tuple(upstream[name] for name in self.order[: len(upstream)])
        if len(said) + 1 == len(self.order):
            return np.array([self._reward((*said, word)) for word in self.words])
        return super().q(problem, upstream)


@dataclass(frozen=True)
class World:
    """A team, its problems, and how many messages it sends at each state."""

    name: str
    truth: Truth
    problems: tuple[Problem, ...]
    fanout: Callable[[tuple[int, ...]], int]
    """From the draws that led to a state to the messages made there."""

    @cached_property
    def blocks(self) -> Mapping[tuple[Problem, tuple[int, ...]], int]:
        """Every context that a role can see -> where its W logits begin among the P parameters."""
        found: dict[tuple[Problem, tuple[int, ...]], int] = {}

        def walk(problem: Problem, said: Said) -> None:
            if len(said) == len(self.truth.order):
                return
            found.setdefault((problem, self.context(problem, said)), len(found) * len(self.truth.words))
            for word in self.truth.words:
                walk(problem, (*said, word))

        for problem in self.problems:
            walk(problem, ())
        return found

    @cached_property
    def depth_P(self) -> npt.NDArray[np.int64]:
        """The place in the speaking order, from 1, of the role that each parameter is of."""
        size, found = len(self.truth.words), np.zeros(len(self.blocks) * len(self.truth.words), dtype=np.int64)

        def walk(problem: Problem, said: Said) -> None:
            if len(said) < len(self.truth.order):
                start = self.blocks[problem, self.context(problem, said)]
                found[start : start + size] = len(said) + 1
                for word in self.truth.words:
                    walk(problem, (*said, word))

        for problem in self.problems:
            walk(problem, ())
        return found

    def upstream(self, said: Said) -> dict[str, str]:
        """Role -> word."""
        return dict(zip(self.truth.order, said, strict=False))

    def context(self, problem: Problem, said: Said) -> tuple[int, ...]:
        """What the next role sees."""
        return self.truth.context(problem, self.upstream(said))

    @cached_property
    def gradient(self) -> Vector:
        """The true policy gradient [P]: sum over roles of E[ (Q - V) grad log pi ], each problem by itself."""
        total = np.zeros(len(self.blocks) * len(self.truth.words))

        def walk(problem: Problem, said: Said, reached: float) -> None:
            if len(said) == len(self.truth.order):
                return
            pi, start = self.pi(problem, said), self.blocks[problem, self.context(problem, said)]
            total[start : start + len(pi)] += reached * pi * self.worth(problem, said)
            for word, share in zip(self.truth.words, pi, strict=True):
                walk(problem, (*said, word), reached * float(share))

        for problem in self.problems:
            walk(problem, (), 1.0)
        return total

    def pi(self, problem: Problem, said: Said) -> Vector:
        """pi(a | h), [W]."""
        return self.truth.pi(problem, self.upstream(said))

    def worth(self, problem: Problem, said: Said) -> Vector:
        """t = Q(h, a) - V(h), [W]."""
        return self.truth.advantage(problem, self.upstream(said))


@dataclass(frozen=True)
class Message:
    """What is known of an alternative."""

    copy: int
    depth: int
    cell: int
    """One number for its problem, what was said before it, and its word."""
    worth: float
    """t = Q - V."""
    value: float
    """V of the state it was said at."""
    pi: Vector
    """pi(. | h) there, [W]."""
    word: int
    """Which of the W it said."""
    parameters: slice
    score: Vector
    """grad log pi(a | h) within the parameters, [W]."""


@dataclass(frozen=True)
class Play:
    """Copies of a world, played."""

    world: World
    copies: int
    endings: list[Ending]
    messages: Mapping[str, Message]
    """By decision."""
    solo: Mapping[str, list[float]]
    """By state, of every role but the last: what one episode earned without that role's message."""
    excess: Mapping[str, float]
    """By state, of the same: V(h) - V_without(h)."""


def play(world: World, copies: int, seed: int) -> Play:
    """`copies` independent problems, drawn from the exact policy; copy i is of problem i modulo their number."""
    uniform = np.random.default_rng(seed)
    endings: list[Ending] = []
    messages: dict[str, Message] = {}
    solo: dict[str, list[float]] = {}
    excess: dict[str, float] = {}
    apart = np.random.default_rng([seed, 1])  # the solo replays have a stream of their own
    followed: dict[tuple[Problem, Said], Vector] = {}
    worth_of: dict[tuple[Problem, Said], float] = {}
    known: dict[tuple[Problem, Said], tuple[Vector, Vector, float, slice]] = {}
    cells: dict[tuple[Problem, Said], int] = {}

    def at(problem: Problem, said: Said) -> tuple[Vector, Vector, float, slice]:
        if (problem, said) not in known:
            start = world.blocks[problem, world.context(problem, said)]
            place = slice(start, start + len(world.truth.words))
            value = world.truth.v(problem, world.upstream(said))
            known[problem, said] = (world.pi(problem, said), world.worth(problem, said), value, place)
        return known[problem, said]

    def alone(problem: Problem, said: Said) -> float:
        """What one episode earns that goes on from these words, one of which is empty."""
        while True:
            if (problem, said) not in followed:
                followed[problem, said] = world.pi(problem, said)
            pi = followed[problem, said]
            word = min(int(np.searchsorted(np.cumsum(pi), apart.random(), side="right")), len(pi) - 1)
            if len(said) + 1 == len(world.truth.order):
                return float(world.truth.q(problem, world.upstream(said))[word])
            said = (*said, world.truth.words[word])

    def grow(copy: int, path: tuple[int, ...], said: Said, above: tuple[str, ...]) -> None:
        problem = world.problems[copy % len(world.problems)]
        if len(said) == len(world.truth.order):
            upstream = world.upstream(said[:-1])
            reward = float(world.truth.q(problem, upstream)[world.truth.words.index(said[-1])])
            endings.append(Ending(above[-1], above, above, reward))
            return
        if len(said) + 1 < len(world.truth.order):
            state = f"p{copy}:{'.'.join(map(str, path))}"
            solo[state] = [alone(problem, (*said, ""))]
            if (problem, said) not in worth_of:
                without = world.truth.v(problem, world.upstream((*said, "")))
                worth_of[problem, said] = world.truth.v(problem, world.upstream(said)) - without
            excess[state] = worth_of[problem, said]
        pi, worth, value, parameters = at(problem, said)
        for draw in range(world.fanout(path)):
            word = min(int(np.searchsorted(np.cumsum(pi), uniform.random(), side="right")), len(pi) - 1)
            here = (*said, world.truth.words[word])
            name = f"p{copy}:{'.'.join(map(str, (*path, draw)))}"
            score = -pi.copy()
            score[word] += 1.0
            cell = cells.setdefault((problem, here), len(cells))
            messages[name] = Message(copy, len(here), cell, float(worth[word]), value, pi, word, parameters, score)
            grow(copy, (*path, draw), here, (*above, name))

    for copy in range(copies):
        grow(copy, (), (), ())
    return Play(world, copies, endings, messages, solo, excess)


@dataclass(frozen=True)
class Figures:
    """What an estimator does to one world. All errors are standard errors over copies."""

    slope: float
    """Of the advantage on t, through the origin: 1 for an unbiased estimate."""
    slope_error: float
    bias: float
    """Root mean square over cells of E[A | h, a] - t, the cells' own noise taken out; never below 0."""
    bias_noise: float
    """What an unbiased estimator would show on average before that."""
    rmse: float
    variance: float
    """Within a cell: of the advantage of one message in one context."""
    gradient_slope: float
    """Of the mean gradient along the true one: 1 for an unbiased gradient."""
    gradient_slope_error: float
    gradient_bias: float
    """Length of the mean gradient's error, relative to the true gradient's, its own noise taken out; never below 0."""
    gradient_chance: float
    """Squared error of the mean gradient in units of what chance alone makes on average: about 1 without bias."""
    gradient_variance: float
    """Trace of the covariance of one problem's gradient."""


Credited = Sequence[tuple[Message, float]]
"""Messages with their advantages; those without one are left out."""


def credit_of(played: Play, estimators: Sequence[str], values: Values | None = None) -> dict[str, Credited]:
    """Every estimator's advantages of the same samples.

    `values`: what value heads expect, by decision; fitted here where an estimator reads them and none are given.
    """
    if values is None and any("critic_values" in find_estimator(name).reads for name in estimators):
        values = learned_values(played)
    found = {}
    with TemporaryDirectory() as folder:
        stored = samples(Path(folder), [played.endings])
        solo = [solo_samples(Path(folder), played.solo)] if played.solo else []
        told = [valued(Path(folder), values)] if values else []
        connection = open_returns([stored, *told], "state", solo)
        for estimator in estimators:
            table = advantages(connection, estimator, "none").to_arrow_table().to_pydict()
            both = zip(table["decision_id"], table["advantage"], strict=True)
            found[estimator] = [(played.messages[name], value) for name, value in both if value is not None]
    return found


def learned_values(played: Play) -> Values:
    """What value heads expect of every message: V(h) and Q(h, a), fitted as the critic stage fits them.

    A pair of heads per role, on the features of `TabularLearner.read`; each copy is told by heads fitted on other copies.
    """
    with TemporaryDirectory() as folder:
        returns = stored_returns([samples(Path(folder), [played.endings])])
    found: dict[str, tuple[float, float]] = {}
    for role in sorted({row["role"] for row in returns}):
        mine = [row for row in returns if row["role"] == role]
        messages = [played.messages[row["decision_id"]] for row in mine]
        context_JW = np.log([message.pi for message in messages]).astype(np.float32)
        said_JW = np.eye(context_JW.shape[1], dtype=np.float32)[[message.word for message in messages]]
        return_J = np.array([row["mean_return"] for row in mine])
        replays_J = np.array([float(row["replay_count"]) for row in mine])
        copies = [row["problem_id"] for row in mine]
        told = [
            cross_fitted(feature, return_J, replays_J, copies, CriticConfig().folds)
            for feature in (context_JW, np.hstack([context_JW, said_JW]))
        ]
        found |= {row["decision_id"]: (float(v), float(q)) for row, v, q in zip(mine, *told, strict=True)}
    return found


def measure(played: Play, defined: Credited) -> Figures:
    """How good these advantages are, and the gradient of the roles that have one."""
    value_J = np.array([value for _, value in defined])
    worth_J = np.array([message.worth for message, _ in defined])
    copy_J = np.array([message.copy for message, _ in defined])
    cell_J = np.array([message.cell for message, _ in defined])
    residual_M = np.bincount(copy_J, (value_J - worth_J) * worth_J, played.copies)
    square = float((worth_J**2).sum())
    bias, noise, variance = _cells(cell_J, copy_J, value_J - worth_J)
    return Figures(
        slope=1 + float(residual_M.sum()) / square,
        slope_error=float(residual_M.std(ddof=1) * np.sqrt(played.copies)) / square,
        bias=bias,
        bias_noise=noise,
        rmse=float(np.sqrt(((value_J - worth_J) ** 2).mean())),
        variance=variance,
        **_gradient(played, gradients(played, defined), {message.depth for message, _ in defined}),
    )


def _cells(cell_J: Vector, copy_J: Vector, error_J: Vector) -> tuple[float, float, float]:
    """Bias, its noise and the variance within a cell, cells weighted by how often they were met.

    Messages of one copy are not independent, so the noise of a cell's mean is that of its sums over copies.
    """
    count = np.bincount(cell_J)
    mean = np.bincount(cell_J, error_J) / np.maximum(count, 1)
    centred_J = error_J - mean[cell_J]
    pairs, place_J = np.unique(np.stack([cell_J, copy_J]), axis=1, return_inverse=True)
    noise = np.bincount(pairs[0], np.bincount(place_J, centred_J) ** 2, len(count)) / np.maximum(count, 1) ** 2
    share = count / count.sum()
    chance = float((share * noise).sum())
    bias = float(np.sqrt(max(0.0, float((share * mean**2).sum()) - chance)))
    return bias, float(np.sqrt(chance)), float((centred_J**2).mean())


def gradients(played: Play, defined: Credited) -> Matrix:
    """Every copy's g [M, P] = sum over roles of the mean over a role's messages of A grad log pi."""
    count_of: dict[tuple[int, int], int] = {}
    for message, _ in defined:
        count_of[message.copy, message.depth] = count_of.get((message.copy, message.depth), 0) + 1
    gradient_MP = np.zeros((played.copies, len(played.world.gradient)))
    for message, value in defined:
        gradient_MP[message.copy, message.parameters] += value * message.score / count_of[message.copy, message.depth]
    return gradient_MP


def _gradient(played: Play, gradient_MP: Matrix, depths: Collection[int]) -> dict[str, float]:
    """Bias and variance, problem by problem: that two problems differ is no variance."""
    kinds = len(played.world.problems)
    truth_P = np.where(np.isin(played.world.depth_P, list(depths)), played.world.gradient, 0.0)
    length = float(truth_P @ truth_P)
    mean_P, slope_variance, chance, variance = np.zeros_like(truth_P), 0.0, 0.0, 0.0
    for kind in range(kinds):
        mine_MP = gradient_MP[kind::kinds]
        trace = float(mine_MP.var(0, ddof=1).sum())
        mean_P += mine_MP.mean(0)
        slope_variance += float((mine_MP @ truth_P).var(ddof=1)) / len(mine_MP)
        chance += trace / len(mine_MP)
        variance += trace / kinds
    error = float(((mean_P - truth_P) ** 2).sum())
    return {
        "gradient_slope": float(mean_P @ truth_P) / length,
        "gradient_slope_error": float(np.sqrt(slope_variance)) / length,
        "gradient_bias": float(np.sqrt(max(0.0, error - chance) / length)),
        "gradient_chance": error / chance,
        "gradient_variance": variance,
    }


def tree(*fanout: int) -> Callable[[tuple[int, ...]], int]:
    """The `tree` plan: so many messages at every state of a depth."""
    return lambda path: fanout[len(path)]


def _problems(count: int, seed: int = 0) -> tuple[Problem, ...]:
    return tuple(load_problems(ScriptedProblems(count=count, seed=seed)))


WORTH = {"ant": 0.0, "bee": 0.5, "cat": 1.0}


ADDED = {"ant": -4.0, "bee": 0.0, "cat": 4.0}


def upstream_decides(*fanout: int) -> World:
    """Two roles that say any word with equal probability; the first word's worth is ten times as spread as the second's."""
    reward: Reward = lambda said: ADDED.get(said[0], 0.0) + WORTH[said[1]]  # noqa: E731
    return World("upstream", RewardedTruth(duo(spread=0.0), reward), _problems(1), tree(*fanout))


def worlds() -> list[World]:
    """The worlds of the table, four problems each."""
    four = _problems(4)
    return [
        World("solo", Truth(solo(spread=1.0)), four, tree(8)),
        World("duo", Truth(duo(world_seed=91, spread=2.0)), four, tree(2, 4)),
        World("trio", Truth(trio(world_seed=105, spread=4.0)), four, tree(2, 2, 2)),
        World("diamond", Truth(diamond(world_seed=31, spread=2.0)), four, tree(2, 2, 2, 2)),
        # what the first word is worth depends on the second, and the other way round: agreement pays
        World("agreement", RewardedTruth(duo(), lambda said: float(said[0] == said[1])), four, tree(2, 4)),
        # the first word decides alone: whatever the second role says is worth nothing
        World("irrelevant", RewardedTruth(duo(), lambda said: WORTH.get(said[0], 0.0)), four, tree(2, 4)),
        # three messages of the first role, answered two, three and four times
        World(
            "unequal",
            RewardedTruth(duo(world_seed=91, spread=2.0), lambda said: WORTH.get(said[0], 0.0) * WORTH[said[1]]),
            four,
            lambda path: path[0] + 2 if path else 3,
        ),
    ]
