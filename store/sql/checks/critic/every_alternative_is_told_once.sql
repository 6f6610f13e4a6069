-- every message at a frozen state that evaluations count towards has one row of values, and nothing else has one
with
credited as (
    select distinct decisions.decision_id
    from (select unnest(credited) as decision_id from transcripts union all select unnest(credited) from replays) as ended
    inner join decisions on decisions.decision_id = ended.decision_id
    inner join contexts on contexts.state_id = decisions.state_id
),

told as (
    select decision_id, count(*) as times
    from critic_values
    group by decision_id
)

select coalesce(credited.decision_id, told.decision_id) as decision_id, coalesce(told.times, 0) as times
from credited
full join told on told.decision_id = credited.decision_id
where credited.decision_id is null or told.times is distinct from 1
