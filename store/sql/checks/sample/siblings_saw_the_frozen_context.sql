-- every sibling was sampled in the context that was frozen for its state
select decisions.decision_id, decisions.context_id as seen, contexts.context_id as frozen
from decisions
left join contexts on contexts.state_id = decisions.state_id
where contexts.context_id is distinct from decisions.context_id
