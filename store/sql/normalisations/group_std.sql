-- grain: one alternative
-- The z-score inside the group: minus the group's mean advantage, divided by their standard deviation (ddof 0).
-- At equal replay counts it makes c3 and full_mean the same numbers, because the factor n/(n-1) cancels; of two
-- alternatives it makes +1 and -1, whatever the returns were. A group whose advantages differ by rounding alone is tied: 0.
with
alternatives as (
    select * from credit
),

-- squares of the smallest and largest numbers are none: everything is measured in units of the group's largest advantage
sizes as (
    select
        group_id,
        greatest(max(abs(advantage)), 0) as size,
        max(abs(mean_return)) as return_size
    from alternatives
    group by group_id
),

shares as (
    select
        alternatives.*,
        sizes.size,
        sizes.return_size,
        case when sizes.size > 0 then alternatives.advantage / sizes.size end as share
    from alternatives
    inner join sizes on sizes.group_id = alternatives.group_id
),

means as (
    select group_id, stable_sum(share) / count(share) as mean_share
    from shares
    group by group_id
),

spreads as (
    select
        shares.group_id,
        any_value(means.mean_share) as mean_share,
        sqrt(stable_sum((share - mean_share) * (share - mean_share)) / count(share)) as spread
    from shares
    inner join means on means.group_id = shares.group_id
    group by shares.group_id
),

final as (
    select
        shares.* exclude (size, return_size, share) replace (
            case
                when advantage is null then null
                when coalesce(spreads.spread, 0) * size <= 1e-12 * coalesce(return_size, 0) then 0
                else (share - spreads.mean_share) / spreads.spread
            end as advantage
        )
    from shares
    inner join spreads on spreads.group_id = shares.group_id
)

select * from final
