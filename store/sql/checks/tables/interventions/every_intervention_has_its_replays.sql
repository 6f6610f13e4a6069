-- every intervention has as many terminal evaluations as were asked for, and nothing else has one
-- reads: own_replays, the step's own rows; the others hold its inputs' too
with
found as (
    select alternative_id as intervention_id, count(*) as replays
    from own_replays
    group by alternative_id
)

select coalesce(interventions.intervention_id, found.intervention_id) as intervention_id, interventions.replays as asked, coalesce(found.replays, 0) as found
from interventions
full join found on found.intervention_id = interventions.intervention_id
where interventions.replays is distinct from coalesce(found.replays, 0)
