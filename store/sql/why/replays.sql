-- grain: one terminal evaluation that counts towards a requested alternative, its messages after that alternative
-- parameter: decisions
with
ended as (
    select 'rollout' as source, episode_id, decision_ids, credited, truncated from transcripts
    union all
    select 'replay' as source, episode_id, decision_ids, credited, truncated from replays
),

credits as (
    select unnest(list_intersect(credited, $decisions)) as decision_id, ended.* from ended
),

followed as (
    select
        credits.decision_id,
        credits.episode_id,
        unnest(credits.decision_ids[list_position(credits.decision_ids, credits.decision_id) + 1 :]) as message_id
    from credits
),

continuations as (
    select
        followed.decision_id,
        followed.episode_id,
        list({'role': decisions.role, 'text': decisions.text} order by decisions.depth) as messages
    from followed
    inner join decisions on decisions.decision_id = followed.message_id
    group by followed.decision_id, followed.episode_id
),

final as (
    select
        credits.decision_id,
        credits.episode_id,
        credits.source,
        credits.truncated,
        coalesce(continuations.messages, []) as messages,
        rewards.reward,
        rewards.reason,
        rewards.parsed_answer,
        rewards.error
    from credits
    left join continuations
        on continuations.decision_id = credits.decision_id and continuations.episode_id = credits.episode_id
    left join rewards on rewards.episode_id = credits.episode_id
    order by credits.decision_id, credits.source desc, credits.episode_id
)

select * from final
