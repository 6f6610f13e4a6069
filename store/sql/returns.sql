-- grain: one alternative (a decision that terminal evaluations count towards)
-- reads: transcripts, replays, rewards, decisions; variable group_by ('state' or 'context')
with
evaluated as (
    select episode_id, credited from transcripts
    union all
    select episode_id, credited from replays
),

credits as (
    select unnest(evaluated.credited) as decision_id, rewards.episode_id, rewards.reward
    from evaluated
    inner join rewards on rewards.episode_id = evaluated.episode_id
),

-- sums are ordered by what is summed, so that equal rewards in another order give the same last bit: a tie stays a tie
returns as (
    select
        decision_id,
        sum(reward order by reward) / count(reward) as mean_return,
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
