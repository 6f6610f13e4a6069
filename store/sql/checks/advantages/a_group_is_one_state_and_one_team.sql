-- every group has one policy version and one role, and grouped by state one state
select
    group_id,
    count(distinct policy_version) as policy_versions,
    count(distinct role) as roles,
    count(distinct state_id) as states
from advantages
group by group_id
having
    count(distinct policy_version) <> 1
    or count(distinct role) <> 1
    or (any_value(group_id) = any_value(state_id) and count(distinct state_id) <> 1)
