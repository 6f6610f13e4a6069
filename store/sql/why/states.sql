-- grain: one replay state, with its problem
-- NULL context: no alternative was drawn there, so nothing was frozen.
-- parameter: states
with
asked as (
    select distinct state_id, problem_id
    from advantages
    where list_contains($states, state_id)
)

select
    asked.state_id,
    contexts.context_id,
    contexts.token_ids,
    contexts.upstream,
    contexts.visit_count,
    problems.problem_id,
    problems.question,
    problems.answer
from asked
inner join problems on problems.problem_id = asked.problem_id
left join contexts on contexts.state_id = asked.state_id
