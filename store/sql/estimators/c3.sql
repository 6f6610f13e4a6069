-- grain: one alternative
-- reads: returns
-- baseline: the others' mean return by replays
-- worked from: others
-- constant in group: yes
-- noise law: yes
--
-- C3 (arXiv 2603.06859, section 3): the replay-count-weighted leave-one-out baseline inside the group,
--     b_{-j} = sum_{k != j} c_k Q_k / (C - c_j),   A_j = Q_j - b_{-j}.
-- A group of one has no baseline: NULL, not 0. An alternative without a scored replay is in nobody's baseline.
with
alternatives as (
    select * from returns
),

groups as (
    select
        group_id,
        count(mean_return) as group_size,
        sum(replay_count) as group_replays,
        stable_sum(replay_count * mean_return) as group_return,
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
            else
                (groups.group_return - alternatives.replay_count * alternatives.mean_return)
                / (groups.group_replays - alternatives.replay_count)
        end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join groups on groups.group_id = alternatives.group_id
)

select * from final
