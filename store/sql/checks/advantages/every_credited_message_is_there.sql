-- per problem and role there are as many alternatives as the plan makes
with
made as (
    select problem_id, role, count(*) as alternatives
    from advantages
    group by problem_id, role
),

planned as (
    select role, sum(alternatives) as alternatives
    from spending
    group by role
),

asked as (
    select distinct transcripts.problem_id, planned.role, planned.alternatives
    from transcripts
    cross join planned
)

select asked.problem_id, asked.role, asked.alternatives as planned, coalesce(made.alternatives, 0) as found
from asked
left join made on made.problem_id = asked.problem_id and made.role = asked.role
where asked.alternatives <> coalesce(made.alternatives, 0)
