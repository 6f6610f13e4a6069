-- grain: one role
-- How the advantages that the update reads are distributed, groups of one among them.
--   undefined   share of alternatives whose advantage is NULL; the other figures are over those that have one
-- reads: advantages
select
    role,
    depth,
    count(*) as alternatives,
    count(advantage) as defined,
    count(distinct problem_id) as problems,
    1 - count(advantage) / count(*) as undefined,
    avg((advantage = 0)::double) as zero,
    avg(advantage order by decision_id) as mean,
    stddev_pop(advantage order by decision_id) as spread,
    quantile_cont(advantage, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]) as quantiles
from advantages
group by role, depth
order by depth, role
