-- grain: one estimator and role
-- Each estimator on one half of the replays against c3's estimate of Q - V on the other half. The halves share the
-- alternatives and nothing else: what is compared is how well an estimate holds against fresh replays.
--   spearman         rank correlation inside a group, averaged over groups; a group in which one side ties counts as 0
--   pooled_spearman  over all alternatives of the role
--   rmse             against that target, whose own noise is in it for every estimator alike; a shrunk estimate has less
-- reads: halved (estimator, role, depth, state_id, decision_id, half, advantage)
with
paired as (
    select
        estimates.estimator,
        estimates.role,
        estimates.depth,
        estimates.state_id,
        estimates.decision_id,
        estimates.advantage as estimate,
        targets.advantage as target
    from halved as estimates
    inner join halved as targets
        on targets.decision_id = estimates.decision_id and targets.estimator = 'c3' and targets.half = 1
    where
        estimates.half = 0
        and estimates.advantage is not null
        and targets.advantage is not null
),

-- a rank among ties is their mean rank
ranked as (
    select
        *,
        rank() over (partition by estimator, role, state_id order by estimate)
        + (count(*) over (partition by estimator, role, state_id, estimate) - 1) / 2 as estimate_rank,
        rank() over (partition by estimator, role, state_id order by target)
        + (count(*) over (partition by estimator, role, state_id, target) - 1) / 2 as target_rank,
        rank() over (partition by estimator, role order by estimate)
        + (count(*) over (partition by estimator, role, estimate) - 1) / 2 as pooled_estimate_rank,
        rank() over (partition by estimator, role order by target)
        + (count(*) over (partition by estimator, role, target) - 1) / 2 as pooled_target_rank
    from paired
),

groups as (
    select
        estimator,
        role,
        state_id,
        case
            when min(estimate) < max(estimate) and min(target) < max(target)
                then corr(estimate_rank, target_rank order by decision_id)
            else 0
        end as spearman
    from ranked
    group by estimator, role, state_id
    having count(*) >= 2
),

within_groups as (
    select estimator, role, count(*) as groups, avg(spearman order by state_id) as spearman
    from groups
    group by estimator, role
),

final as (
    select
        ranked.estimator,
        ranked.role,
        any_value(within_groups.groups) as groups,
        any_value(within_groups.spearman) as spearman,
        case
            when min(estimate) < max(estimate) and min(target) < max(target)
                then corr(pooled_estimate_rank, pooled_target_rank order by decision_id)
        end as pooled_spearman,
        sqrt(avg((estimate - target) * (estimate - target) order by decision_id)) as rmse
    from ranked
    inner join within_groups on within_groups.estimator = ranked.estimator and within_groups.role = ranked.role
    group by ranked.estimator, ranked.role, ranked.depth
    order by ranked.depth, ranked.role, ranked.estimator
)

select * from final
