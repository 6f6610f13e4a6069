-- grain: one state that was replayed without its role's message
-- reads: solo_probes, solo_replays, solo_rewards
-- NULL mean_return: none of its replays was scored.
with
rewards_of as (
    select
        solo_probes.state_id,
        list_sort(list(solo_rewards.reward) filter (where solo_rewards.reward is not null)) as rewards
    from solo_probes
    inner join solo_replays on solo_replays.alternative_id = solo_probes.probe_id
    inner join solo_rewards on solo_rewards.episode_id = solo_replays.episode_id
    group by solo_probes.state_id
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
