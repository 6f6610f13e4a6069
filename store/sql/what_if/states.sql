-- grain: one replay state that the id names: its own, or a decision's
-- parameter: id
select contexts.state_id, contexts.role
from contexts
where
    contexts.state_id = $id
    or contexts.state_id in (select state_id from decisions where decision_id = $id)
