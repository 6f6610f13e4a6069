-- every problem has the siblings that the plan gives sample, role by role
with
made as (
    select problem_id, role, count(*) as messages
    from decisions
    group by problem_id, role
),

asked as (
    select distinct contexts.problem_id, spending.role, spending.messages
    from contexts
    cross join spending
    where spending.stage = 'sample'
)

select asked.problem_id, asked.role, asked.messages as planned, coalesce(made.messages, 0) as found
from asked
left join made on made.problem_id = asked.problem_id and made.role = asked.role
where asked.messages <> coalesce(made.messages, 0)
