-- grain: one alternative (a decision that terminal evaluations count towards)
-- reads: episodes, decisions; variable group_by ('state' or 'context')
with
credits as (
    select unnest(credited) as decision_id, reward
    from episodes
),

-- equal rewards in another order give the same last bit: a tie stays a tie
returns as (
    select
        decision_id,
        -- three times .1 divided by 3 is not .1: equal rewards are their own mean
        case
            when min(reward) = max(reward) then min(reward)
            else stable_sum(reward) / count(reward)
        end as mean_return,
        count(reward) as replay_count,
        count(*) - count(reward) as unscored_count
    from credits
    group by decision_id
),

final as (
    select
        decisions.decision_id,
        decisions.state_id,
        decisions.context_id,
        decisions.problem_id,
        decisions.role,
        decisions.depth,
        decisions.draw,
        decisions.path,
        decisions.is_logged,
        decisions.policy_version,
        case getvariable('group_by')
            when 'context' then decisions.problem_id || '/' || decisions.context_id
            else decisions.state_id
        end as group_id,
        returns.replay_count,
        returns.unscored_count,
        returns.mean_return
    from returns
    inner join decisions on decisions.decision_id = returns.decision_id
)

select * from final
