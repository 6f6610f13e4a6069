-- no two messages of a round, the given ones of probes among them, share an id
-- reads: decisions, which holds those of the round that the step was given too
with
ids as (
    select decision_id as id from decisions
    union all
    select probe_id as id from probes
)

select id, count(*) as times
from ids
group by id
having count(*) > 1
