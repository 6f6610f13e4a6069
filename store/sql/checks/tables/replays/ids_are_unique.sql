-- no two messages of a round, the given ones of interventions among them, share an id
-- reads: decisions, which holds those of the round that the step was given too
with
ids as (
    select decision_id as id from decisions
    union all
    select intervention_id as id from interventions
)

select id, count(*) as times
from ids
group by id
having count(*) > 1
