-- every alternative of a group, the last role's aside, has as many independent replays as any other; nothing else has one
-- reads: own_replays, the step's own rows; the others hold its inputs' too
with
credits as (
    select distinct credited.decision_id
    from (
        select unnest(credited) as decision_id from transcripts
        union all
        select unnest(credited) as decision_id
        from replays
        where episode_id not in (select episode_id from own_replays)
    ) as credited
),

alternatives as (
    select decisions.decision_id
    from decisions
    inner join credits on credits.decision_id = decisions.decision_id
    where decisions.depth < (select max(depth) from spending)
    qualify count(*) over (partition by decisions.state_id) >= 2
),

independent_replays as (
    select alternative_id as decision_id, count(*) as replays
    from own_replays
    group by alternative_id
)

select coalesce(alternatives.decision_id, independent_replays.decision_id) as decision_id, coalesce(replays, 0) as replays
from alternatives
full join independent_replays on independent_replays.decision_id = alternatives.decision_id
where
    alternatives.decision_id is null
    or coalesce(replays, 0) <> (select coalesce(max(replays), 0) from independent_replays)
