-- grain: one alternative
-- reads: returns
-- baseline: the others' mean return by replays
-- worked from: others
-- groups: problem
-- constant in group: yes
--
-- Without fixed contexts ("w/o fixed history"): c3's leave-one-out over all of a role's messages to a problem, whatever
-- each of them saw,
--     b_{-j} = sum_{k != j} c_k Q_k / (C - c_j),   k over the problem's alternatives of that role.
-- As an estimate of Q - V it is off by V(h) minus the mean of V over the other contexts; as a policy gradient it is
-- unbiased, with more variance. The groups are the problem's: advantages.group_by has nothing to say.
with
alternatives as (
    select * replace (problem_id || '/' || role as group_id) from returns
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
