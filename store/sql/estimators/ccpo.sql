-- grain: one alternative
-- reads: returns, ablated_replay
-- baseline: the mean return at the state without its message
-- constant in group: yes
-- last role: undefined
--
-- CCPO (arXiv 2603.21563): the return with the agent minus the return without it,
--     b_j = mean return of ablated replays of j's state (its message empty),   A_j = Q_j - b_j.
-- As an estimate of Q - V it is off by V(h) - V_without(h), the same for every alternative of a state, so as a policy gradient
-- it is unbiased. NULL for the last role, without whose message there is nothing to grade, and wherever no ablated replay
-- was scored. A group of one has an advantage, because it is compared with nobody.
with
alternatives as (
    select * from returns
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
        case when alternatives.mean_return is not null then ablated_replay.mean_return end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join groups on groups.group_id = alternatives.group_id
    left join ablated_replay on ablated_replay.state_id = alternatives.state_id
)

select * from final
