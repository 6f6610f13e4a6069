-- grain: one alternative
-- reads: returns, critic_values
-- baseline: the others' mean value, by value heads
--
-- What the method's released code trains: the return minus the others' learned values,
--     b_{-j} = mean_{k != j} Q^(h, a_k),   A_j = Q_j - b_{-j}.
-- Its baseline has no replay noise but the value head's error, which is the same problem for all of a group. A group of one has
-- no baseline: NULL, as where the head had nothing to learn from.
with
alternatives as (
    select returns.*, critic_values.action_value
    from returns
    left join critic_values on critic_values.decision_id = returns.decision_id
),

groups as (
    select
        group_id,
        count(mean_return) as group_size,
        count(action_value) as value_count,
        stable_sum(action_value) as value_sum,
        min(action_value) = max(action_value) as is_tied
    from alternatives
    group by group_id
),

final as (
    select
        alternatives.* exclude (action_value),
        groups.group_size,
        case
            when alternatives.mean_return is null or alternatives.action_value is null or groups.value_count < 2 then null
            -- equal values are their own mean, to the last bit
            when groups.is_tied then alternatives.action_value
            else (groups.value_sum - alternatives.action_value) / (groups.value_count - 1)
        end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join groups on groups.group_id = alternatives.group_id
)

select * from final
