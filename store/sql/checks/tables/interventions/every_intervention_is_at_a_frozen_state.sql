-- every intervention is at a frozen state, said by the role whose turn it is there, once
select interventions.intervention_id, interventions.state_id, interventions.role, count(contexts.state_id) as states
from interventions
left join contexts on contexts.state_id = interventions.state_id and contexts.role = interventions.role
group by interventions.intervention_id, interventions.state_id, interventions.role
having count(contexts.state_id) <> 1 or count(*) <> 1
