-- grain: one alternative
-- reads: returns, critic_values
-- baseline: the return that a value head expected at its state
-- constant in group: yes
--
-- MAPPO (arXiv 2103.01955): the episode's return minus a learned value of what the role saw,
--     A_j = Q_j - V(h).
-- A value head never saw the problem it predicts, so V is independent of the returns and the policy gradient stays unbiased; as an
-- estimate of Q - V it is off by the head's error. A group of one has an advantage, because it is compared with nobody,
-- where its state was frozen; where it was not, nothing is known of it: NULL.
with
alternatives as (
    select returns.*, critic_values.state_value
    from returns
    left join critic_values on critic_values.decision_id = returns.decision_id
),

groups as (
    select group_id, count(mean_return) as group_size
    from alternatives
    group by group_id
),

final as (
    select
        alternatives.* exclude (state_value),
        groups.group_size,
        case when alternatives.mean_return is not null then alternatives.state_value end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join groups on groups.group_id = alternatives.group_id
)

select * from final
