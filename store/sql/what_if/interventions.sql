-- grain: one intervention, with what it earned and what the state's alternatives earn (V, their mean return by replays)
-- NULL value: no alternative of the state was credited. NULL mean_return: no replay of the intervention was scored.
with
earned as (
    select
        replays.alternative_id as intervention_id,
        avg(rewards.reward order by rewards.reward) as mean_return,
        stddev_samp(rewards.reward order by rewards.reward) as spread, -- NULL: fewer than two scored
        count(rewards.reward) as replay_count,
        count(*) - count(rewards.reward) as unscored_count
    from replays
    inner join rewards on rewards.episode_id = replays.episode_id
    group by replays.alternative_id
),

worth as (
    select
        state_id,
        sum(replay_count * mean_return order by decision_id) / sum(replay_count) as value,
        sum(replay_count) as value_replays,
        count(mean_return) as alternatives
    from advantages
    where mean_return is not null
    group by state_id
),

final as (
    select
        interventions.*,
        problems.question,
        problems.answer,
        earned.* exclude (intervention_id),
        worth.* exclude (state_id),
        worth.value - earned.mean_return as difference
    from interventions
    inner join problems on problems.problem_id = interventions.problem_id
    left join earned on earned.intervention_id = interventions.intervention_id
    left join worth on worth.state_id = interventions.state_id
)

select * from final
order by problem_id, depth, path
