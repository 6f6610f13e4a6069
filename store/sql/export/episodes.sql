-- grain: one terminal evaluation, its messages in speaking order
-- parameter: source (rollout, replay; NULL: both)
with
ended as (
    select 'rollout' as source, episode_id, problem_id, path, decision_ids from transcripts
    union all
    select 'replay' as source, episode_id, problem_id, path, decision_ids from replays
),

spoken as (
    select
        links.episode_id,
        list(
            {
                'role': decisions.role,
                'decision_id': decisions.decision_id,
                'text': decisions.text,
                'token_ids': decisions.token_ids,
                'logprobs': decisions.behaviour_logprobs,
                'finish_reason': decisions.finish_reason
            }
            order by decisions.depth
        ) as messages
    from (select episode_id, unnest(decision_ids) as decision_id from ended) as links
    inner join decisions on decisions.decision_id = links.decision_id
    group by links.episode_id
),

final as (
    select
        ended.episode_id,
        ended.source,
        ended.problem_id,
        problems.question,
        problems.answer,
        spoken.messages,
        rewards.reward,
        rewards.reason,
        rewards.parsed_answer,
        rewards.error
    from ended
    inner join spoken on spoken.episode_id = ended.episode_id
    inner join problems on problems.problem_id = ended.problem_id
    left join rewards on rewards.episode_id = ended.episode_id
    where ended.source = coalesce($source, ended.source)
    order by ended.problem_id, ended.path, ended.episode_id
)

select * from final
