-- every problem has exactly the ablated evaluations and messages that are planned for it
-- reads: own_replays, own_decisions, the step's own rows
with
episodes as (
    select problem_id, count(*) as evaluations
    from own_replays
    group by problem_id
),

messages as (
    select problem_id, count(*) as messages
    from own_decisions
    group by problem_id
),

planned as (
    select sum(evaluations) as evaluations, sum(messages) as messages
    from spending
),

asked as (
    select distinct problem_id from contexts
)

select
    asked.problem_id,
    planned.evaluations as planned_evaluations,
    coalesce(episodes.evaluations, 0) as evaluations,
    planned.messages as planned_messages,
    coalesce(messages.messages, 0) as messages
from asked
cross join planned
left join episodes on episodes.problem_id = asked.problem_id
left join messages on messages.problem_id = asked.problem_id
where
    planned.evaluations <> coalesce(episodes.evaluations, 0)
    or planned.messages <> coalesce(messages.messages, 0)
