-- every reward names the messages of its episode, and those it counts towards, as the episode itself does
with
episodes as (
    select episode_id, decision_ids, credited from transcripts
    union all
    select episode_id, decision_ids, credited from replays
)

select rewards.episode_id, rewards.credited as found, episodes.credited as asked
from rewards
inner join episodes on episodes.episode_id = rewards.episode_id
where
    rewards.decision_ids is distinct from episodes.decision_ids
    or rewards.credited is distinct from episodes.credited
