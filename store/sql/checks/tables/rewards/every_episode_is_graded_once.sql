-- every finished episode has one row of rewards, with a finite reward or an error, never both or neither
with
episodes as (
    select episode_id from transcripts
    union all
    select episode_id from replays
)

select episodes.episode_id, count(rewards.episode_id) as times, any_value(rewards.reward) as reward
from episodes
left join rewards on rewards.episode_id = episodes.episode_id
group by episodes.episode_id
having
    count(rewards.episode_id) <> 1
    or bool_or((rewards.reward is null) = (rewards.error is null))
    or not bool_and(isfinite(coalesce(rewards.reward, 0)))
