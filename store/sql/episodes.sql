-- grain: one terminal evaluation, from rollout and replay alike
-- reads: transcripts, replays, rewards
with
ended as (
    select episode_id, problem_id, decision_ids, credited from transcripts
    union all
    select episode_id, problem_id, decision_ids, credited from replays
),

final as (
    select ended.*, rewards.reward
    from ended
    inner join rewards on rewards.episode_id = ended.episode_id
)

select * from final
