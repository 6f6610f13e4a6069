-- grain: one independent continuation of one alternative: all that was evaluated below one draw of the next role
-- Leaves that share the next message are correlated, those that do not are independent given the alternative. A message
-- of the last role ends its episode and is its own continuation.
--   source        round, or independent: an independent replay bought to diagnose
--   mean_return   over its scored leaves; first_reward, first_answer: of the first of them by path of draws
-- reads: transcripts, replays, rewards, decisions; independent_replays, independent_rewards
with
ended as (
    select 'round' as source, episode_id, decision_ids, credited, path from transcripts
    union all
    select 'round' as source, episode_id, decision_ids, credited, path from replays
    union all
    select 'independent' as source, episode_id, decision_ids, credited, path from independent_replays
),

graded as (
    select 'round' as source, episode_id, reward, parsed_answer from rewards
    union all
    select 'independent' as source, episode_id, reward, parsed_answer from independent_rewards
),

leaves as (
    select
        ended.source,
        unnest(ended.credited) as decision_id,
        ended.decision_ids,
        ended.path,
        graded.reward,
        graded.parsed_answer
    from ended
    inner join graded on graded.episode_id = ended.episode_id and graded.source = ended.source
    where graded.reward is not null
),

continued as (
    select
        leaves.*,
        decisions.state_id,
        coalesce(leaves.decision_ids[decisions.depth + 1], leaves.decision_id) as next_id,
        leaves.path[:decisions.depth + 1] as next_path
    from leaves
    inner join decisions on decisions.decision_id = leaves.decision_id
),

final as (
    select
        decision_id,
        any_value(state_id) as state_id,
        source,
        next_path,
        -- equal rewards are their own mean, as in returns.sql
        case
            when min(reward) = max(reward) then min(reward)
            else sum(reward order by reward) / count(reward)
        end as mean_return,
        count(reward) as leaves,
        arg_min(reward, path) as first_reward,
        -- through a struct, because arg_min passes over NULL
        arg_min({'answer': parsed_answer}, path).answer as first_answer
    from continued
    group by decision_id, source, next_id, next_path
)

select * from final
order by decision_id, source = 'independent', next_path
