-- grain: one state that was replayed without its role's message
-- reads: ablated_interventions, ablated_replays, ablated_rewards
-- NULL mean_return: none of its replays was scored.
with
rewards_of as (
    select
        ablated_interventions.state_id,
        list_sort(list(ablated_rewards.reward) filter (where ablated_rewards.reward is not null)) as rewards
    from ablated_interventions
    inner join ablated_replays on ablated_replays.alternative_id = ablated_interventions.intervention_id
    inner join ablated_rewards on ablated_rewards.episode_id = ablated_replays.episode_id
    group by ablated_interventions.state_id
),

final as (
    select
        state_id,
        -- equal rewards are their own mean, as in returns.sql
        case
            when rewards[1] = rewards[-1] then rewards[1]
            else list_sum(rewards) / len(rewards)
        end as mean_return,
        coalesce(len(rewards), 0) as replay_count
    from rewards_of
)

select * from final
