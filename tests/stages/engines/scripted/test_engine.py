"""The scripted engine: what it draws is what it says it draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from configs.engines import ScriptedEngineConfig
from configs.errors import ConfigError, EngineError, StoreError
from configs.schema import Config
from stages.engines.protocol import Request, SamplingParameters
from stages.engines.scripted.engine import ScriptedEngine
from stages.models.identity import base_digest
from stages.models.protocol import ChatMessage
from stages.models.scripted_codec import END, ScriptedCodec
from stages.models.scripted_world import context_key, load_table, save_table, world_logits
from stages.problem_sources.registry import load_problems
from store.artifacts.policy_version import Adapter, PolicyVersion
from tests.support.worlds import Truth, chain_of_ten, diamond, duo, four_turns, solo, trio

CONFIG = ScriptedEngineConfig(words=("ant", "bee", "cat", "dog"), world_seed=7)
BASE = base_digest(CONFIG)
CONTEXT = tuple(ScriptedCodec(CONFIG.words).encode([ChatMessage("user", "which animal?")]))
PLAIN = SamplingParameters(1.0, 1.0, 0, 8)


def _engine(config: ScriptedEngineConfig = CONFIG, directory: Path | None = None) -> ScriptedEngine:
    engine = ScriptedEngine(config)
    adapters = {"team": Adapter("digest", directory)} if directory else {}
    engine.use(PolicyVersion("version", base_digest(config), adapters))
    return engine


def _drawn(engine: ScriptedEngine, sampling: SamplingParameters, count: int) -> np.ndarray:
    """How often each word is drawn with seeds 0 .. count - 1."""
    request = Request(CONTEXT, tuple(range(count)), sampling, "team")
    words = [completion.token_ids[0] - END - 1 for completion in engine.generate([request])[0]]
    return np.bincount(words, minlength=len(CONFIG.words))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_match_probabilities(temperature: float) -> None:
    engine = _engine()
    probabilities = engine.probabilities(CONTEXT, "team", temperature)
    counts = _drawn(engine, SamplingParameters(temperature, 1.0, 0, 8), 8000)
    assert chisquare(counts, probabilities * 8000).pvalue > 0.01
    assert chisquare(counts, np.roll(probabilities, 1) * 8000).pvalue < 1e-6  # the test can fail


def test_probabilities_are_the_softmax_of_the_worlds_logits() -> None:
    logits = world_logits(CONFIG, context_key(CONTEXT))
    expected = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    np.testing.assert_allclose(_engine().probabilities(CONTEXT, "team", 0.7), expected, rtol=1e-14)


def test_logprobs_are_those_of_the_distribution_sampled_from_and_the_end_is_certain() -> None:
    engine = _engine()
    log_pi = np.log(engine.probabilities(CONTEXT, "team", 0.7))
    request = Request(CONTEXT, tuple(range(50)), SamplingParameters(0.7, 1.0, 0, 8), "team")
    for completion in engine.generate([request])[0]:
        word, end = completion.token_ids
        assert end == END and completion.finish_reason == "stop"
        assert completion.logprobs == pytest.approx((log_pi[word - END - 1], 0.0), abs=1e-14)


def test_top_k_leaves_the_k_likeliest_words_renormalised() -> None:
    engine = _engine()
    pi = engine.probabilities(CONTEXT, "team")
    likeliest = np.argsort(-pi)[:2]
    expected = np.zeros(4)
    expected[likeliest] = pi[likeliest] / pi[likeliest].sum()
    counts = _drawn(engine, SamplingParameters(1.0, 1.0, 2, 8), 4000)
    assert counts[expected == 0].sum() == 0
    assert chisquare(counts[likeliest], expected[likeliest] * 4000).pvalue > 0.01
    completion = engine.generate([Request(CONTEXT, (0,), SamplingParameters(1.0, 1.0, 2, 8), "team")])[0][0]
    assert completion.logprobs[0] == pytest.approx(np.log(expected[completion.token_ids[0] - END - 1]))


def test_top_p_leaves_the_smallest_set_that_reaches_p() -> None:
    engine = _engine()
    ordered = np.sort(engine.probabilities(CONTEXT, "team"))[::-1]
    for words in (1, 2, 3, 4):
        # just past the first words - 1: one more word is needed
        reached = ordered[: words - 1].sum() + ordered[words - 1] / 2
        assert (_drawn(engine, SamplingParameters(1.0, reached, 0, 8), 3000) > 0).sum() == words


def test_greedy_takes_the_likeliest_word_whatever_the_seed_and_tells_its_untempered_logprob() -> None:
    engine = _engine()
    pi = engine.probabilities(CONTEXT, "team", 1.0)
    greedy = SamplingParameters(0.0, 1.0, 0, 8)
    assert _drawn(engine, greedy, 100)[pi.argmax()] == 100
    completion = engine.generate([Request(CONTEXT, (0,), greedy, "team")])[0][0]
    assert completion.logprobs[0] == pytest.approx(np.log(pi.max()))
    assert engine.probabilities(CONTEXT, "team", 0.0).tolist() == (pi == pi.max()).tolist()


def test_a_draw_is_a_function_of_its_seed_not_of_what_else_is_asked() -> None:
    engine = _engine()
    other = Request((1, 2, 3), (5, 6), PLAIN, "team")
    one_by_one = [engine.generate([Request(CONTEXT, (seed,), PLAIN, "team")])[0][0] for seed in range(20)]
    told: list[int] = []
    together = engine.generate([other, Request(CONTEXT, tuple(range(20)), PLAIN, "team")], told.append)[1]
    assert together == one_by_one
    assert sum(told) == 22


def test_a_message_without_room_for_its_end_is_cut() -> None:
    completion = _engine().generate([Request(CONTEXT, (0,), SamplingParameters(1.0, 1.0, 0, 1), "team")])[0][0]
    assert len(completion.token_ids) == len(completion.logprobs) == 1
    assert completion.finish_reason == "length"


def test_untrained_logits_are_standard_normal_times_spread() -> None:
    wide = CONFIG.model_copy(update={"spread": 3.0})
    logits = np.concatenate([world_logits(wide, str(context)) for context in range(1000)])
    assert kstest(logits / 3.0, "norm").pvalue > 0.01
    np.testing.assert_array_equal(world_logits(CONFIG.model_copy(update={"spread": 0.0}), "x"), 0.0)


def test_the_world_is_the_one_that_was_recorded() -> None:
    # another value here is another world under the same key: raise the versions of the stages that sample
    assert world_logits(CONFIG, "a context")[0] == pytest.approx(-1.0283161836622758, abs=1e-12)
    assert _drawn(_engine(), PLAIN, 12).tolist() == [0, 2, 1, 9]


def test_learned_deltas_are_added_for_their_policy_and_context_alone(tmp_path: Path) -> None:
    delta = np.array([0.0, 2.0, -1.0, 0.5])
    save_table(tmp_path, {context_key(CONTEXT): delta})
    engine, untrained = _engine(directory=tmp_path), _engine()
    expected = np.log(untrained.probabilities(CONTEXT, "team")) + delta
    learned = np.log(engine.probabilities(CONTEXT, "team"))
    np.testing.assert_allclose(learned - learned[0], expected - expected[0], atol=1e-12)
    for context, policy in [((1, 2), "team"), (CONTEXT, "other")]:
        np.testing.assert_array_equal(engine.probabilities(context, policy), untrained.probabilities(context, policy))


def test_another_policy_version_replaces_the_first_one_wholly(tmp_path: Path) -> None:
    save_table(tmp_path, {context_key(CONTEXT): np.array([9.0, 0.0, 0.0, 0.0])})
    engine = _engine(directory=tmp_path)
    assert _drawn(engine, PLAIN, 100)[0] > 90
    engine.use(PolicyVersion("untrained", BASE))
    np.testing.assert_array_equal(_drawn(engine, PLAIN, 100), _drawn(_engine(), PLAIN, 100))


def test_equal_tables_have_equal_bytes_and_come_back_exactly(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = {f"{key:064x}": random.normal(size=4) for key in range(20)}
    save_table(tmp_path / "a", table)
    save_table(tmp_path / "b", dict(reversed(table.items())))
    assert (tmp_path / "a" / "table.safetensors").read_bytes() == (tmp_path / "b" / "table.safetensors").read_bytes()
    loaded = load_table(tmp_path / "a", 4)
    assert loaded.keys() == table.keys()
    assert all(np.array_equal(loaded[key], table[key]) for key in table)


def test_a_table_that_is_missing_corrupt_or_of_other_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a readable table"):
        load_table(tmp_path, 4)
    (tmp_path / "table.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(StoreError, match="not a readable table"):
        load_table(tmp_path, 4)
    save_table(tmp_path, {"key": np.zeros(3)})
    with pytest.raises(StoreError, match=r"float64\[3\], wanted float64\[4\]"):
        load_table(tmp_path, 4)


def test_weights_of_another_world_are_refused_and_none_are_assumed() -> None:
    engine = ScriptedEngine(CONFIG)
    with pytest.raises(EngineError, match="call use"):
        engine.probabilities(CONTEXT, "team")
    with pytest.raises(EngineError, match="trained in world"):
        engine.use(PolicyVersion("version", "another world"))


@given(st.text(), st.text())
def test_contents_cannot_forge_turns(first: str, second: str) -> None:
    codec = ScriptedCodec(CONFIG.words)
    ids = codec.encode([ChatMessage("user", first), ChatMessage("assistant", second)])
    structure = [token for token in ids if token > 255]
    assert structure == [codec.encode([])[0] - 1, END, codec.encode([])[0], END, codec.encode([])[0]]
    assert codec.decode(ids[1 : ids.index(END)]) == first


@given(st.text(st.characters(codec="utf-8")))
def test_text_survives_its_token_ids(text: str) -> None:
    codec = ScriptedCodec(CONFIG.words)
    ids = codec.encode([ChatMessage("user", text)])
    assert codec.decode(ids[1:-1]) == text


@given(st.lists(st.integers(0, 263)))
def test_any_token_ids_decode_to_text_that_can_be_stored(ids: list[int]) -> None:
    ScriptedCodec(CONFIG.words).decode(ids).encode()


def test_decoding_drops_a_final_end_and_shows_every_other_special_token() -> None:
    codec = ScriptedCodec(("ant", "bee"))  # ids: 257 ant, 258 bee, 259 system, 260 user, 261 assistant
    assert codec.decode([codec.word_id("bee"), END]) == "bee"
    assert codec.decode([257, END, 260, 104, 105, END]) == "ant<|end|><|user|>hi"
    assert codec.decode([]) == ""
    with pytest.raises(EngineError, match="262"):
        codec.decode([262])


def test_words_that_would_read_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match="'ant' stands twice"):
        ScriptedCodec(("ant", "bee", "ant"))
    with pytest.raises(ConfigError, match="empty"):
        ScriptedCodec(("ant", ""))


@pytest.mark.parametrize("make", [solo, duo, trio, diamond, four_turns, chain_of_ten])
def test_in_every_world_the_average_advantage_is_zero_and_v_is_the_average_reward(
    make: Callable[[], Config],
) -> None:
    config = make()
    truth = Truth(config)
    for problem in load_problems(config.problems)[:2]:
        assert truth.pi(problem, {}) @ truth.advantage(problem, {}) == pytest.approx(0, abs=1e-12)
        rewards = dict(zip(truth.words, truth.rewards(problem), strict=True))
        outcomes = truth.outcomes(problem, {})
        average = sum(probability * rewards[word] for word, probability in outcomes.items())
        assert truth.v(problem, {}) == pytest.approx(average, abs=1e-12)


def test_v_of_a_duo_is_what_its_episodes_earn_on_average() -> None:
    config = duo()
    truth = Truth(config)
    problem = load_problems(config.problems)[0]
    first = truth.pi(problem, {})
    # by hand: sum over both words of pi(a) pi(b | a) r(b)
    rewards = truth.rewards(problem)
    by_hand = sum(first[a] * truth.pi(problem, {"reasoner": word}) @ rewards for a, word in enumerate(truth.words))
    assert truth.v(problem, {}) == pytest.approx(by_hand, abs=1e-12)


def test_parallel_roles_see_one_context_whatever_the_other_said() -> None:
    config = diamond()
    truth = Truth(config)
    problem = load_problems(config.problems)[0]
    states = [{"top": "ant", "left": word} for word in truth.words]
    assert len({truth.context(problem, state) for state in states}) == 1
    assert len({truth.v(problem, state) for state in states}) == 3  # and yet three values: three states
