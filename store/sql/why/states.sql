-- grain: one frozen state, with its problem
-- parameter: states
select
    contexts.state_id,
    contexts.context_id,
    contexts.token_ids,
    contexts.upstream,
    contexts.times_seen,
    problems.problem_id,
    problems.question,
    problems.answer
from contexts
inner join problems on problems.problem_id = contexts.problem_id
where list_contains($states, contexts.state_id)
