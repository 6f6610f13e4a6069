-- grain: one alternative of a group whose returns all tie
-- parameters: role (NULL: all), count (of groups)
with
tied as (
    select group_id
    from advantages
    where role = coalesce($role, role)
    group by group_id
    having count(mean_return) >= 2 and min(mean_return) = max(mean_return)
    order by group_id
    limit $count
)

select advantages.decision_id, advantages.group_id
from advantages
inner join tied on tied.group_id = advantages.group_id
order by advantages.group_id, advantages.decision_id
