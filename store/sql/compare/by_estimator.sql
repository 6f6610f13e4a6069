-- grain: one estimator and role
-- reads: compared (estimator, decision_id, state_id, role, depth, advantage)
select
    estimator,
    role,
    count(*) as alternatives,
    count(*) - count(advantage) as undefined,
    avg(advantage order by decision_id) as mean,
    var_pop(advantage order by decision_id) as variance,
    avg((advantage = 0)::double) as zero_share
from compared
group by estimator, role, depth
order by depth, role, estimator
