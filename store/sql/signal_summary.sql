-- grain: one role
-- groups: two or more alternatives; without signal: all of them returned the same
select
    role,
    min(depth) as depth,
    count(distinct group_id) filter (where group_size >= 2) as groups,
    count(distinct group_id) filter (where group_size >= 2 and is_tied) as groups_without_signal
from (
    select *, min(mean_return) over (partition by group_id) = max(mean_return) over (partition by group_id) as is_tied
    from advantages
)
group by role
order by depth
