-- The tables as a user queries them: rows of the artifacts, with the run, round and variant that refer to them.
-- `labels` has one row per Parquet file and reference; `<table>_files` the rows of the files.

create view problems as
select l.run, l.round, l.variant, t.* exclude (filename)
from problems_files as t inner join labels as l on l.filename = t.filename
where l.step = 'problems';

create view heldout_problems as
select l.run, l.round, l.variant, t.* exclude (filename)
from problems_files as t inner join labels as l on l.filename = t.filename
where l.step = 'heldout';

create view transcripts as
select l.run, l.round, l.variant, t.* exclude (filename)
from transcripts_files as t inner join labels as l on l.filename = t.filename
where l.step = 'rollout';

create view decisions as
select l.run, l.round, l.variant, l.step as source, t.* exclude (filename)
from decisions_files as t inner join labels as l on l.filename = t.filename
where l.step in ('rollout', 'sample', 'replay');

create view contexts as
select l.run, l.round, l.variant, l.step as source, t.* exclude (filename)
from contexts_files as t inner join labels as l on l.filename = t.filename;

create view replays as
select l.run, l.round, l.variant, t.* exclude (filename)
from replays_files as t inner join labels as l on l.filename = t.filename
where l.step = 'replay';

create view rewards as
select l.run, l.round, l.variant, t.* exclude (filename)
from rewards_files as t inner join labels as l on l.filename = t.filename
where l.step = 'grade';

-- every terminal evaluation, from rollout and replay alike
create view episodes as
with
ended as (
    select run, round, variant, 'rollout' as source, episode_id, null as alternative_id, problem_id, path, decision_ids, output, truncated
    from transcripts
    union all by name
    select run, round, variant, 'replay' as source, episode_id, alternative_id, problem_id, path, decision_ids, output, truncated
    from replays
)
select ended.*, rewards.* exclude (run, round, variant, episode_id, problem_id, decision_ids, credited)
from ended
left join rewards
    on rewards.run = ended.run and rewards.round = ended.round and rewards.variant = ended.variant
    and rewards.episode_id = ended.episode_id;

-- an alternative with its text: what it was worth
create view advantages as
select
    l.run, l.round, l.variant, t.* exclude (filename),
    decisions.text, decisions.source, decisions.path, decisions.finish_reason, decisions.new_tokens
from advantages_files as t
inner join labels as l on l.filename = t.filename
left join decisions
    on decisions.run = l.run and decisions.round = l.round and decisions.variant = l.variant
    and decisions.decision_id = t.decision_id;

-- a decision at a state that holds two or more, whatever stage made it
create view alternatives as
select *
from decisions
qualify count(*) over (partition by run, round, variant, state_id) >= 2;

-- seconds: of the whole step, all roles together; the tokens a second of a step's roles add up to the step's
create view steps as
select
    l.run, l.round, l.variant, t.* exclude (filename),
    step_timing.seconds, t.tokens / nullif(step_timing.seconds, 0) as tokens_per_second
from steps_files as t
inner join labels as l on l.filename = t.filename
left join step_timing on step_timing.filename = t.filename and step_timing.step = t.step;

create view update_rows as
select l.run, l.round, l.variant, t.* exclude (filename)
from update_rows_files as t inner join labels as l on l.filename = t.filename;

-- per role and update, how far the engine's log-probs are from the trainer's
create view logprob_mismatch as
select l.run, l.round, l.variant, t.* exclude (filename)
from logprob_mismatch_files as t inner join labels as l on l.filename = t.filename;

create view evaluations as
select l.run, l.round, l.variant, t.* exclude (filename)
from evaluations_files as t inner join labels as l on l.filename = t.filename;

-- the independent replays of `c3 diagnose`, graded: no advantage and no update reads them
create view independent_replays as
select
    l.run, l.round, l.variant, t.* exclude (filename),
    rewards.* exclude (run, round, variant, episode_id, problem_id, decision_ids, credited)
from replays_files as t
inner join labels as l on l.filename = t.filename
left join (
    select of_rewards.run, of_rewards.round, of_rewards.variant, r.* exclude (filename)
    from rewards_files as r inner join labels as of_rewards on of_rewards.filename = r.filename
    where of_rewards.step = 'independent_grade'
) as rewards
    on rewards.run = l.run and rewards.round = l.round and rewards.variant = l.variant
    and rewards.episode_id = t.episode_id
where l.step = 'independent_replay';

create view diagnostics as
select l.run, l.round, l.variant, t.* exclude (filename)
from diagnostics_files as t inner join labels as l on l.filename = t.filename;

-- a given message at a frozen state, with what it earned: what `c3 what-if` asked (source: intervention), or the empty message that
-- ccpo compares with (source: ablated_replay); it is in no group, and no update learns from it
create view intervention_replays as
select
    l.run, l.round, l.variant, l.step as source, t.* exclude (filename, alternative_id), t.alternative_id as intervention_id,
    rewards.* exclude (run, round, variant, episode_id, problem_id, decision_ids, credited)
from replays_files as t
inner join labels as l on l.filename = t.filename
left join (
    select of_rewards.run, of_rewards.round, of_rewards.variant, r.* exclude (filename)
    from rewards_files as r inner join labels as of_rewards on of_rewards.filename = r.filename
    where of_rewards.step in ('intervention_grade', 'ablated_grade')
) as rewards
    on rewards.run = l.run and rewards.round = l.round and rewards.variant = l.variant
    and rewards.episode_id = t.episode_id
where l.step in ('intervention', 'ablated_replay');

create view interventions as
select
    l.run, l.round, l.variant, l.step as source, t.* exclude (filename),
    earned.mean_return, coalesce(earned.replay_count, 0) as replay_count, coalesce(earned.unscored_count, 0) as unscored_count
from interventions_files as t
inner join labels as l on l.filename = t.filename
left join (
    select
        run, round, variant, intervention_id,
        avg(reward order by reward) as mean_return,
        count(reward) as replay_count,
        count(*) - count(reward) as unscored_count
    from intervention_replays
    group by run, round, variant, intervention_id
) as earned
    on earned.run = l.run and earned.round = l.round and earned.variant = l.variant and earned.intervention_id = t.intervention_id
where l.step in ('intervention', 'ablated_replay');

-- what value heads expected of each alternative, where the estimator reads them
create view critic_values as
select l.run, l.round, l.variant, t.* exclude (filename)
from critic_values_files as t inner join labels as l on l.filename = t.filename;
