-- grain: one alternative with an advantage, the best or the worst first
-- parameters: role (NULL: all), best, count
select decision_id, group_id
from advantages
where advantage is not null and role = coalesce($role, role)
order by case when $best then -advantage else advantage end, decision_id
limit $count
