-- grain: one alternative
-- reads: returns
-- baseline: the group's mean return, its own with it
-- worked from: all
-- constant in group: yes
--
-- The plain mean ("w/o LOO" of the paper's released code): an alternative is part of its own baseline,
--     b = (1/n) sum_k Q_k,   A_j = Q_j - b,
-- which at equal replay counts is (n-1)/n of c3. A group of one would compare a return with itself: NULL, not 0.
with
alternatives as (
    select * from returns
),

groups as (
    select
        group_id,
        count(mean_return) as group_size,
        stable_sum(mean_return) / count(mean_return) as group_mean,
        min(mean_return) = max(mean_return) as is_tied
    from alternatives
    group by group_id
),

final as (
    select
        alternatives.*,
        groups.group_size,
        case
            when alternatives.mean_return is null or groups.group_size < 2 then null
            -- a tie is exactly 0: rounding in the sum must not make signal out of none
            when groups.is_tied then alternatives.mean_return
            else groups.group_mean
        end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join groups on groups.group_id = alternatives.group_id
)

select * from final
