-- grain: one round
-- reads: transcripts, replays, rewards
-- Added up in the order of the rewards: the same rows, in whatever order, have the same last digit.
select
    count(*) as evaluations,
    avg(rewards.reward order by rewards.reward) as mean_reward,
    stddev_pop(rewards.reward order by rewards.reward) as reward_spread,
    count(*) - count(rewards.reward) as unscored
from (
    select episode_id from transcripts
    union all
    select episode_id from replays
) as episodes
inner join rewards on rewards.episode_id = episodes.episode_id
