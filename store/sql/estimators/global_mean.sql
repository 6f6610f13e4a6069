-- grain: one alternative
-- reads: returns
-- baseline: the mean return of all alternatives of the round
-- constant in group: yes
--
-- One baseline for the whole batch ("w/o LOO" of arXiv 2603.06859v2): the unweighted mean over its N alternatives,
--     b = (1/N) sum_k Q_k,   A_j = Q_j - b.
-- As an estimate of Q - V it is off by V(h) - b, however many replays there are. A batch of one has no baseline: NULL.
with
alternatives as (
    select * from returns
),

batch as (
    select
        count(mean_return) as batch_size,
        stable_sum(mean_return) / count(mean_return) as batch_mean,
        min(mean_return) = max(mean_return) as is_tied
    from alternatives
),

groups as (
    select group_id, count(mean_return) as group_size
    from alternatives
    group by group_id
),

final as (
    select
        alternatives.*,
        groups.group_size,
        case
            when alternatives.mean_return is null or batch.batch_size < 2 then null
            -- a tie is exactly 0: rounding in the sum must not make signal out of none
            when batch.is_tied then alternatives.mean_return
            else batch.batch_mean
        end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join groups on groups.group_id = alternatives.group_id
    cross join batch
)

select * from final
