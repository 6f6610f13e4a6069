"""Every table's columns: type, meaning, and what NULL means.

No table holds a run, a round or a variant: the catalog's views add those from the references.
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
        ("suite", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)

DECISIONS = pa.schema(
    [
        ("decision_id", pa.string()),
        ("state_id", pa.string()),
        ("context_id", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),  # 1 for the first role to speak
        ("path", pa.list_(pa.int32())),  # draws up to and including this decision
        ("draw", pa.int32()),  # its own draw: the last of the path
        ("is_logged", pa.bool_()),  # taken by the rollout's own transcript
        ("token_ids", _TOKENS),  # sampled tokens, end token included
        ("behaviour_logprobs", _LOGPROBS),  # aligned with token_ids, as sampled from; NULL: imported without
        ("text", pa.string()),
        ("finish_reason", pa.string()),  # stop | length
        ("prompt_tokens", pa.int32()),
        ("new_tokens", pa.int32()),
        ("seed", pa.int64()),
        ("policy", pa.string()),  # name of the policy that answered
        ("policy_digest", pa.string()),  # of its adapter
        ("policy_version", pa.string()),  # of the whole team
    ]
)

TRANSCRIPTS = pa.schema(
    [
        ("episode_id", pa.string()),  # the id of its last decision
        ("problem_id", pa.string()),
        ("path", pa.list_(pa.int32())),
        ("decision_ids", _IDS),  # every message of the episode, in speaking order
        ("credited", _IDS),  # the decisions whose return this evaluation counts towards
        ("output", pa.string()),  # the last message's text: what is graded
        ("truncated", pa.bool_()),  # the last message was cut at its token limit
    ]
)

CONTEXTS = pa.schema(
    [
        ("state_id", pa.string()),
        ("context_id", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),
        ("path", pa.list_(pa.int32())),  # draws that led here; empty for the first role
        ("token_ids", _TOKENS),
        ("upstream", _MESSAGES),  # every message before this point, in speaking order: the replay state
        ("visit_count", pa.int32()),  # transcripts that pass through this state
    ]
)

REPLAYS = pa.schema(
    [
        ("episode_id", pa.string()),
        ("alternative_id", pa.string()),  # the decision this continues
        *[field for field in TRANSCRIPTS if field.name != "episode_id"],
    ]
)

REWARDS = pa.schema(
    [
        ("episode_id", pa.string()),
        ("problem_id", pa.string()),
        # the episode's own, so that credit is computed from these rows and need not look every episode up
        ("decision_ids", _IDS),
        ("credited", _IDS),
        ("reward", pa.float64()),  # NULL: the evaluator failed, see error
        ("reason", pa.string()),
        ("parsed_answer", pa.string()),  # NULL: nothing could be read
        ("error", pa.string()),  # NULL: graded; else the exception's type and text
        ("evaluator", pa.string()),
    ]
)

CRITIC_VALUES = pa.schema(
    [
        ("decision_id", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        (
            "state_value",
            pa.float64(),
        ),  # V(h): the return expected before anything is said; NULL: nothing to learn it from
        ("action_value", pa.float64()),  # Q(h, a): the return expected of this message; NULL likewise
    ]
)

ADVANTAGES = pa.schema(
    [
        ("decision_id", pa.string()),
        ("state_id", pa.string()),
        ("context_id", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),
        ("draw", pa.int32()),
        ("is_logged", pa.bool_()),
        ("policy_version", pa.string()),
        ("group_id", pa.string()),  # the state, the context or the problem and role, as the estimator compares
        ("group_size", pa.int32()),  # alternatives of the group with at least one scored replay
        ("replay_count", pa.int32()),  # scored terminal evaluations of this alternative
        ("unscored_count", pa.int32()),  # terminal evaluations whose reward is NULL
        ("mean_return", pa.float64()),  # NULL: nothing scored
        ("baseline", pa.float64()),  # NULL: no other alternative to compare with
        ("advantage", pa.float64()),  # what the update uses: mean_return - baseline, normalised; NULL: undefined, not 0
        ("estimator", pa.string()),
        ("normalisation", pa.string()),
    ]
)

STEPS = pa.schema(
    [
        ("step", pa.int32()),  # optimiser step within the round, from 1
        ("epoch", pa.int32()),
        ("role", pa.string()),
        ("policy", pa.string()),
        # what was computed: every alternative where the loss has a KL coefficient or an entropy bonus; without them only those
        # of an advantage other than 0, since the others move nothing. The means below are over these rows and no others, so
        # they are NULL where all groups of a role tie
        ("rows", pa.int32()),
        ("tokens", pa.int32()),  # of those rows
        ("loss", pa.float64()),
        ("ratio_mean", pa.float64()),  # NULL: no such row
        ("clipped_share", pa.float64()),  # tokens whose gradient the clip removed; NULL: no such row
        ("kl", pa.float64()),  # to the reference, nats a token, by update.kl.estimator; NULL: no such row
        ("entropy", pa.float64()),  # of the policy where it drew, nats a token; NULL: no such row
        ("gradient_norm", pa.float64()),  # of the policy, before clipping
        ("learning_rate", pa.float64()),
    ]
)

UPDATE_ROWS = pa.schema(
    [
        ("decision_id", pa.string()),
        ("role", pa.string()),
        ("advantage", pa.float64()),
        ("skipped", pa.string()),  # NULL: trained; else why not
        ("behaviour_logprob", pa.float64()),  # sum over tokens, the engine's, when sampled
        ("policy_logprob", pa.float64()),  # sum over tokens, the trainer's, before the first step; NULL: skipped
        ("largest_mismatch", pa.float64()),  # largest difference of the two over one token
        ("policy_logprobs", _LOGPROBS),  # the trainer's, per token: the denominator of the ratio
        ("reference_logprobs", _LOGPROBS),  # under the model before any training; NULL: the row moves nothing
    ]
)

LOGPROB_MISMATCH = pa.schema(
    [
        ("role", pa.string()),
        ("policy", pa.string()),
        ("policy_version", pa.string()),  # that sampled the rows
        ("rows", pa.int32()),  # alternatives with log-probs of both engine and trainer
        ("unmeasured", pa.int32()),  # the others
        ("tokens", pa.int32()),
        ("mean_mismatch", pa.float64()),  # mean |engine - trainer| a token, nats; NULL: no such row (so for all below)
        ("signed_mismatch", pa.float64()),  # mean engine - trainer: above 0 where sampling was truncated
        ("p99_mismatch", pa.float64()),
        ("largest_mismatch", pa.float64()),
        ("effective_sample_share", pa.float64()),  # of messages, weighted by trainer / engine; 1: no gap
    ]
)

EVALUATIONS = pa.schema(
    [
        ("problem_id", pa.string()),
        ("suite", pa.string()),
        ("output", pa.string()),
        ("parsed_answer", pa.string()),
        ("answer", pa.string()),
        ("reward", pa.float64()),  # NULL: the evaluator failed
        ("reason", pa.string()),
        ("truncated", pa.bool_()),
        ("messages", _MESSAGES),  # the whole episode, in speaking order
        ("new_tokens", pa.int32()),  # of all messages of the episode
        ("policy_version", pa.string()),
    ]
)

DIAGNOSTICS = pa.schema(
    [
        ("name", pa.string()),  # of the figure
        ("role", pa.string()),
        ("value", pa.float64()),  # NULL: cannot be told, see reason
        # 95% interval, bootstrap over problems (too short for variances of fewer than some 60 of them); NULL: of fewer than two
        # problems, or a description without inference
        ("low", pa.float64()),
        ("high", pa.float64()),
        # no estimate shows better, even one that knew Q - V, because the target is noisy; NULL: not known
        ("bound", pa.float64()),
        ("null_value", pa.float64()),  # what an estimate, or a message, that says nothing would show; NULL: not known
        ("null_p", pa.float64()),  # how often one that says nothing shows as much, by permutation; NULL: not tested
        ("count", pa.int32()),  # groups (of single alternatives: alternatives) that the value is over
        ("tied", pa.int32()),  # groups that count as 0 because one side ties; NULL: no such thing here
        ("left_out", pa.int32()),  # groups (alternatives) for which the figure is not defined
        ("problems", pa.int32()),  # that those in `count` belong to: the clusters of the interval
        ("samples", pa.string()),  # round | independent | both: whose replays it was computed from
        ("reason", pa.string()),  # NULL: the value is there; else why it is not
    ]
)

INTERVENTIONS = pa.schema(
    [
        ("intervention_id", pa.string()),  # what its replays continue: their alternative_id
        ("state_id", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),
        ("path", pa.list_(pa.int32())),  # of its own draws: no decision's path
        ("text", pa.string()),  # the message as later roles read it; empty: the role's message taken away
        ("tokens", pa.int32()),  # of the message, its end token included
        ("replays", pa.int32()),  # terminal evaluations asked for; 1 for the last role
        ("policy_version", pa.string()),  # of the team that continued it
    ]
)

SPENDING = pa.schema(
    [
        ("stage", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),
        ("messages", pa.int64()),  # per problem
        ("evaluations", pa.int64()),  # per problem: episodes that end in this stage at this role
        ("alternatives", pa.int64()),  # per problem: credited decisions of this role made by this stage
        ("replays", pa.int64()),  # terminal evaluations counted towards each of those
    ]
)
"""What one problem of a round costs by the plan, stage by stage and role by role."""

STEP_TIMING = pa.schema(
    [
        ("filename", pa.string()),  # of the steps that were timed
        ("step", pa.int32()),
        ("seconds", pa.float64()),  # of the whole step, all roles together
    ]
)

ROUNDS = pa.schema(
    [
        ("run", pa.string()),
        ("round", pa.int32()),
        ("variant", pa.string()),
        ("policy_before", pa.string()),  # the version that its messages are of; NULL before the first
        ("policy_after", pa.string()),  # the version that its update made; NULL before that
        ("stale", pa.bool_()),  # made from a policy that the round before no longer ends with; NULL: nobody can say
    ]
)

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
