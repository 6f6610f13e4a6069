-- grain: one row; how greedy accuracy changed between two evaluations of the same problems, paired by problem
-- reads: before, after (evaluations); variable deviations (half an interval's width, in standard errors); problems without a reward on either side are left out
with
paired as (
    select after.reward - before.reward as change
    from before
    inner join after on after.problem_id = before.problem_id
    where before.reward is not null and after.reward is not null
)

select
    count(*) as problems,
    avg(change order by change) as change,
    getvariable('deviations') * stddev_samp(change order by change) / sqrt(count(*)) as half_interval
from paired
