-- every problem has exactly the terminal evaluations and messages that the plan gives it
with
episodes as (
    select problem_id, count(*) as evaluations
    from (select problem_id from replays)
    group by problem_id
),

messages as (
    select problem_id, count(*) as messages
    from decisions
    group by problem_id
),

planned as (
    select
        sum(case when stage in ('sample', 'replay') then evaluations else 0 end) as evaluations,
        sum(messages) as messages
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
