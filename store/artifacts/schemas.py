"""Every table's columns: type, unit, meaning, and what NULL means. Where a comment says nothing of NULL there is none.

No table holds a run, a round or a variant: `c3 sql` adds those from the rounds' records. Counts are of what the column
is named after; ids are 12 characters; log-probs are in nats.
"""

from __future__ import annotations

import pyarrow as pa

_TOKENS = pa.list_(pa.int32())
_LOGPROBS = pa.list_(pa.float32())
_IDS = pa.list_(pa.string())
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("decision_id", pa.string()), ("text", pa.string())]))

PROBLEMS = pa.schema(
    [
        ("problem_id", pa.string()),
        ("suite", pa.string()),  # name of the set it is from
        ("question", pa.string()),  # text that the prompts show
        ("answer", pa.string()),  # text that the evaluator compares with
    ]
)

DECISIONS = pa.schema(
    [
        ("decision_id", pa.string()),
        ("state_id", pa.string()),  # the state it was taken at
        ("context_id", pa.string()),  # what its role saw there; equal prompts of different states share it
        ("problem_id", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),  # position in speaking order, from 1
        ("path", pa.list_(pa.int32())),  # draws from the first role's up to and including this decision's
        ("draw", pa.int32()),  # its own draw, from 0: the last of the path
        ("is_logged", pa.bool_()),  # whether the rollout's own transcript took it
        ("token_ids", _TOKENS),  # sampled tokens, end token included
        ("behaviour_logprobs", _LOGPROBS),  # nats, aligned with token_ids, as sampled from; NULL: imported without
        ("text", pa.string()),  # the message as later roles read it
        ("finish_reason", pa.string()),  # stop | length
        ("prompt_tokens", pa.int32()),  # tokens its role saw
        ("new_tokens", pa.int32()),  # tokens of the message, end token included
        ("seed", pa.int64()),  # of its sampling, 63 bits; NULL: imported
        ("policy", pa.string()),  # name of the policy that answered
        ("policy_digest", pa.string()),  # of its adapter; 'untrained' before any update
        ("policy_version", pa.string()),  # of the whole team
    ]
)

TRANSCRIPTS = pa.schema(
    [
        ("episode_id", pa.string()),  # the id of its last decision
        ("problem_id", pa.string()),
        ("path", pa.list_(pa.int32())),  # draws up to and including its last decision
        ("decision_ids", _IDS),  # every message of the episode, in speaking order
        ("credited", _IDS),  # the decisions whose return this evaluation counts towards
        ("output", pa.string()),  # the last message's text: what is graded
        ("truncated", pa.bool_()),  # whether the last message was cut at its token limit
    ]
)

CONTEXTS = pa.schema(
    [
        ("state_id", pa.string()),
        ("context_id", pa.string()),  # what the role sees; equal prompts of different states share it
        ("problem_id", pa.string()),
        ("role", pa.string()),  # that speaks at this state
        ("depth", pa.int32()),  # position of that role in speaking order, from 1
        ("path", pa.list_(pa.int32())),  # draws that led here; empty for the first role
        ("token_ids", _TOKENS),  # the prompt, exactly as the role sees it
        ("upstream", _MESSAGES),  # every message before this point, in speaking order: the replay state
        ("visit_count", pa.int32()),  # transcripts that pass through this state
    ]
)

REPLAYS = pa.schema(
    [
        ("episode_id", pa.string()),  # the id of its last decision
        ("alternative_id", pa.string()),  # the decision, or intervention, that it continues
        *[field for field in TRANSCRIPTS if field.name != "episode_id"],
    ]
)

REWARDS = pa.schema(
    [
        ("episode_id", pa.string()),
        ("problem_id", pa.string()),
        # the episode's own, so that credit is computed from these rows and need not look every episode up
        ("decision_ids", _IDS),  # every message of the episode, in speaking order
        ("credited", _IDS),  # the decisions whose return this evaluation counts towards
        ("reward", pa.float64()),  # as the evaluator gives it; NULL: the evaluator failed, see error
        ("reason", pa.string()),  # the evaluator's own words; NULL: the evaluator failed, see error
        ("parsed_answer", pa.string()),  # what the evaluator read in the output; NULL: nothing could be read
        ("error", pa.string()),  # the exception's type and text; NULL: graded
        ("evaluator", pa.string()),  # its kind
    ]
)

CRITIC_VALUES = pa.schema(
    [
        ("decision_id", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        # both in units of reward; NULL: there was nothing to learn them from
        ("state_value", pa.float64()),  # V(h): the return expected before the message
        ("action_value", pa.float64()),  # Q(h, a): the return expected of this message
    ]
)

ADVANTAGES = pa.schema(
    [
        ("decision_id", pa.string()),
        ("state_id", pa.string()),
        ("context_id", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),  # position of the role in speaking order, from 1
        ("draw", pa.int32()),  # as in decisions
        ("is_logged", pa.bool_()),  # as in decisions
        ("policy_version", pa.string()),  # that sampled it
        ("group_id", pa.string()),  # the state, the context or the problem and role, as the estimator compares
        ("group_size", pa.int32()),  # alternatives of the group with at least one scored replay
        ("replay_count", pa.int32()),  # scored terminal evaluations of this alternative
        ("unscored_count", pa.int32()),  # terminal evaluations whose reward is NULL
        ("mean_return", pa.float64()),  # mean reward over its scored evaluations; NULL: nothing scored
        ("baseline", pa.float64()),  # in units of reward; NULL: no other alternative to compare with
        # what the update uses: mean_return - baseline in units of reward, unless normalised; NULL: undefined, not 0
        ("advantage", pa.float64()),
        ("estimator", pa.string()),  # name of its file in store/sql/estimators
        ("normalisation", pa.string()),  # name of its file in store/sql/normalisations
    ]
)

STEPS = pa.schema(
    [
        ("step", pa.int32()),  # optimiser step within the round, from 1
        ("epoch", pa.int32()),  # pass over the round's rows, from 1
        ("role", pa.string()),
        ("policy", pa.string()),  # name of the policy trained on that role's rows
        # what was computed: every alternative where the loss has a KL or an entropy coefficient; without them only
        # those of an advantage other than 0, since the others move nothing. Means below are over the tokens of these
        # rows and no others, so they are NULL where all groups of a role tie
        ("rows", pa.int32()),
        ("tokens", pa.int32()),  # of those rows
        ("loss", pa.float64()),  # the role's share of the step's objective, as minimised
        ("ratio_mean", pa.float64()),  # mean of policy / behaviour probability a token; NULL: no such row
        ("clipped_share", pa.float64()),  # 0 to 1: tokens whose gradient the clip removed; NULL: no such row
        ("kl", pa.float64()),  # to the reference, nats a token, by update.kl.estimator; NULL: no such row
        ("entropy", pa.float64()),  # of the policy where it drew, nats a token; NULL: no such row
        ("gradient_norm", pa.float64()),  # L2, of the whole policy, before clipping
        ("learning_rate", pa.float64()),  # of this step
    ]
)

UPDATE_ROWS = pa.schema(
    [
        ("decision_id", pa.string()),
        ("role", pa.string()),
        ("advantage", pa.float64()),  # as the update used it; NULL: undefined, so skipped
        ("skipped", pa.string()),  # why it was not trained on; NULL: it was
        # sum over tokens in nats, the engine's, when sampled; NULL: imported without
        ("behaviour_logprob", pa.float64()),
        # sum over tokens in nats, the trainer's, before the first step; NULL: skipped
        ("policy_logprob", pa.float64()),
        # nats, largest |engine - trainer| over its tokens; NULL: one of the two is
        ("largest_mismatch", pa.float64()),
        # nats, the trainer's, a token each: the denominator of the ratio; NULL: skipped
        ("policy_logprobs", _LOGPROBS),
        # nats, under the model before any training, a token each; NULL: the row moves nothing
        ("reference_logprobs", _LOGPROBS),
    ]
)

LOGPROB_MISMATCH = pa.schema(
    [
        ("role", pa.string()),
        ("policy", pa.string()),  # name of the policy that answered
        ("policy_version", pa.string()),  # that sampled the rows
        ("rows", pa.int32()),  # alternatives with log-probs of both engine and trainer
        ("unmeasured", pa.int32()),  # the other alternatives
        ("tokens", pa.int32()),  # of the rows
        # all below: NULL where there is no such row
        ("mean_mismatch", pa.float64()),  # mean |engine - trainer|, nats a token
        ("signed_mismatch", pa.float64()),  # mean engine - trainer, nats a token: above 0 where sampling was truncated
        ("p99_mismatch", pa.float64()),  # 99th percentile of |engine - trainer| over tokens, nats
        ("largest_mismatch", pa.float64()),  # largest |engine - trainer| over tokens, nats
        ("effective_sample_share", pa.float64()),  # 0 to 1, of messages weighted by trainer / engine; 1: no mismatch
    ]
)

EVALUATIONS = pa.schema(
    [
        ("problem_id", pa.string()),
        ("suite", pa.string()),  # as in problems
        ("output", pa.string()),  # the last message's text: what is graded
        ("parsed_answer", pa.string()),  # what the evaluator read in the output; NULL: nothing could be read
        ("answer", pa.string()),  # as in problems
        ("reward", pa.float64()),  # as the evaluator gives it; NULL: the evaluator failed
        ("reason", pa.string()),  # the evaluator's own words, or why it failed
        ("truncated", pa.bool_()),  # whether the last message was cut at its token limit
        ("messages", _MESSAGES),  # the whole episode, in speaking order
        ("new_tokens", pa.int32()),  # tokens of all messages of the episode
        ("policy_version", pa.string()),  # that answered
    ]
)

DIAGNOSTICS = pa.schema(
    [
        ("name", pa.string()),  # of the figure
        ("role", pa.string()),
        ("value", pa.float64()),  # in the figure's own unit; NULL: not defined here, see reason
        # bounds of the 95% interval, bootstrap over problems (too short for variances of fewer than some 60 of them);
        # NULL: fewer than two problems, or a description without inference
        ("low", pa.float64()),
        ("high", pa.float64()),  # as low
        # no estimate shows better, even one that knew Q - V, because the target is noisy; NULL: not known
        ("bound", pa.float64()),
        ("null_value", pa.float64()),  # what an estimate, or a message, without information would show; NULL: not known
        # share of permutations, 0 to 1, in which one without information shows as much; NULL: not tested
        ("null_p", pa.float64()),
        ("count", pa.int32()),  # groups (of single alternatives: alternatives) that the value is over
        ("tied", pa.int32()),  # groups that count as 0 because one side ties; NULL: no such thing here
        ("left_out", pa.int32()),  # groups (alternatives) for which the figure is not defined
        ("problems", pa.int32()),  # that those in `count` belong to: the clusters of the interval
        ("replays_from", pa.string()),  # round | independent | both: whose replays it was computed from; NULL: no value
        ("reason", pa.string()),  # why there is no value; NULL: there is one
    ]
)

INTERVENTIONS = pa.schema(
    [
        ("intervention_id", pa.string()),  # what its replays continue: their alternative_id
        ("state_id", pa.string()),  # the state it was put into
        ("problem_id", pa.string()),
        ("role", pa.string()),  # whose message it replaces
        ("depth", pa.int32()),  # position of that role in speaking order, from 1
        ("path", pa.list_(pa.int32())),  # of draws of its own: no decision's path
        ("text", pa.string()),  # the message as later roles read it; empty: the role's message is left out
        ("tokens", pa.int32()),  # tokens of the message, end token included
        ("replays", pa.int32()),  # terminal evaluations requested; 1 for the last role
        ("policy_version", pa.string()),  # of the team that continued it
    ]
)

SPENDING = pa.schema(
    [
        ("stage", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),  # position of the role in speaking order, from 1
        # all below: per problem of the round
        ("messages", pa.int64()),
        ("evaluations", pa.int64()),  # episodes that end in this stage at this role
        ("alternatives", pa.int64()),  # credited decisions of this role made by this stage
        ("replays", pa.int64()),  # terminal evaluations that count towards each of those
    ]
)
"""What one problem of a round costs by the plan, stage by stage and role by role."""

STEP_TIMING = pa.schema(
    [
        ("filename", pa.string()),  # of the steps that were timed
        ("step", pa.int32()),  # optimiser step within the round, from 1
        ("seconds", pa.float64()),  # of the whole step, all roles together
    ]
)
"""How long optimiser steps took. Read from the parts' records: no Parquet file holds it."""

ROUNDS = pa.schema(
    [
        ("run", pa.string()),
        ("round", pa.int32()),  # from 1
        ("variant", pa.string()),
        ("policy_before", pa.string()),  # the version that sampled its messages; NULL: it has none yet
        ("policy_after", pa.string()),  # the version that its update made; NULL: it has none yet
        # whether it comes from a policy that the round before no longer ends with; NULL: it cannot be known
        ("stale", pa.bool_()),
    ]
)
"""Policy staleness of every round. Read from the rounds' records: no Parquet file holds it."""

TABLES: dict[str, pa.Schema] = {
    "problems": PROBLEMS,
    "transcripts": TRANSCRIPTS,
    "decisions": DECISIONS,
    "contexts": CONTEXTS,
    "replays": REPLAYS,
    "rewards": REWARDS,
    "critic_values": CRITIC_VALUES,
    "advantages": ADVANTAGES,
    "steps": STEPS,
    "update_rows": UPDATE_ROWS,
    "logprob_mismatch": LOGPROB_MISMATCH,
    "evaluations": EVALUATIONS,
    "diagnostics": DIAGNOSTICS,
    "interventions": INTERVENTIONS,
}
"""The tables that are stored as Parquet files, by name."""
