-- grain: one round
-- reads: transcripts, replays, rewards
select
    count(*) as evaluations,
    avg(rewards.reward) as mean_reward,
    stddev_pop(rewards.reward) as reward_spread,
    count(*) - count(rewards.reward) as unscored
from (
    select episode_id from transcripts
    union all
    select episode_id from replays
) as episodes
inner join rewards on rewards.episode_id = episodes.episode_id
