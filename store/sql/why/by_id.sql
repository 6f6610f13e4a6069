-- grain: one alternative of a decision's, state's, context's group's or problem's id
-- parameter: id
select decision_id, group_id
from advantages
where $id in (decision_id, state_id, group_id, problem_id)
order by problem_id, depth, group_id, decision_id
