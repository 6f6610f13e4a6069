-- grain: one alternative
-- reads: returns, critic_values
-- baseline: the others' mean value
-- credits: values
--
-- Learned values alone: the returns are used to fit the head and for nothing else,
--     b_{-j} = mean_{k != j} Q^(h, a_k),   A_j = Q^(h, a_j) - b_{-j}.
-- Whatever the head cannot tell apart has no credit, and its errors are biases that no number of replays removes. mean_return
-- is shown and not used.
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
            when alternatives.action_value is null or groups.value_count < 2 then null
            -- equal values are their own mean, to the last bit
            when groups.is_tied then alternatives.action_value
            else (groups.value_sum - alternatives.action_value) / (groups.value_count - 1)
        end as baseline,
        alternatives.action_value - baseline as advantage
    from alternatives
    inner join groups on groups.group_id = alternatives.group_id
)

select * from final
