-- every advantage leads back to a message, its frozen context where it has a group, and a problem
select
    advantages.decision_id,
    decisions.decision_id is not null as has_message,
    contexts.state_id is not null as has_context,
    problems.problem_id is not null as has_problem
from advantages
left join (select distinct decision_id, state_id, problem_id from decisions) as decisions
    on decisions.decision_id = advantages.decision_id
left join (select distinct state_id, context_id from contexts) as contexts
    on contexts.state_id = advantages.state_id
left join (select distinct problem_id from problems) as problems
    on problems.problem_id = advantages.problem_id
where
    decisions.decision_id is null
    or problems.problem_id is null
    or (contexts.state_id is null and advantages.group_size >= 2)
