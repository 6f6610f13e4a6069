-- every state that a transcript passed through is frozen once, with the context its role saw
select decisions.state_id, decisions.context_id as seen, any_value(contexts.context_id) as frozen, count(contexts.state_id) as times
from (select distinct state_id, context_id from decisions) as decisions
left join contexts on contexts.state_id = decisions.state_id
group by decisions.state_id, decisions.context_id
having count(contexts.state_id) <> 1 or any_value(contexts.context_id) <> decisions.context_id
