-- every problem has the messages that the plan gives rollout, role by role
with
made as (
    select problem_id, role, count(*) as messages
    from decisions
    group by problem_id, role
),

asked as (
    select distinct transcripts.problem_id, spending.role, spending.messages
    from transcripts
    cross join spending
    where spending.stage = 'rollout'
)

select asked.problem_id, asked.role, asked.messages as planned, coalesce(made.messages, 0) as found
from asked
left join made on made.problem_id = asked.problem_id and made.role = asked.role
where asked.messages <> coalesce(made.messages, 0)
