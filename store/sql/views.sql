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
from replays_files as t inner join labels as l on l.filename = t.filename;

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
select ended.*, rewards.* exclude (run, round, variant, episode_id, problem_id)
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

create view steps as
select l.run, l.round, l.variant, t.* exclude (filename)
from steps_files as t inner join labels as l on l.filename = t.filename;

create view trained as
select l.run, l.round, l.variant, t.* exclude (filename)
from trained_files as t inner join labels as l on l.filename = t.filename;

-- per role and update, how far the engine's log-probs are from the trainer's
create view gaps as
select l.run, l.round, l.variant, t.* exclude (filename)
from gaps_files as t inner join labels as l on l.filename = t.filename;

create view evaluations as
select l.run, l.round, l.variant, t.* exclude (filename)
from evaluations_files as t inner join labels as l on l.filename = t.filename;
