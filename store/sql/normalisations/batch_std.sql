-- grain: one alternative
-- Divided by the standard deviation (ddof 0) of all advantages of the batch; nothing is subtracted, so a sign stays a sign.
-- A batch whose advantages differ by rounding alone is left as it is: there is nothing to divide by.
with
alternatives as (
    select * from credit
),

-- squares of the smallest and largest numbers are none: everything is measured in units of the batch's largest advantage
sizes as (
    select greatest(max(abs(advantage)), 0) as size, max(abs(mean_return)) as return_size
    from alternatives
),

shares as (
    select
        alternatives.*,
        sizes.size,
        sizes.return_size,
        case when sizes.size > 0 then alternatives.advantage / sizes.size end as share
    from alternatives
    cross join sizes
),

means as (
    select stable_sum(share) / count(share) as mean_share
    from shares
),

spreads as (
    select sqrt(stable_sum((share - mean_share) * (share - mean_share)) / count(share)) as spread
    from shares
    cross join means
),

final as (
    select
        shares.* exclude (size, return_size, share) replace (
            case
                when coalesce(spreads.spread, 0) * size <= 1e-12 * coalesce(return_size, 0) then advantage
                else share / spreads.spread
            end as advantage
        )
    from shares
    cross join spreads
)

select * from final
