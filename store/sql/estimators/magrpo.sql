-- grain: one alternative
-- reads: returns, episodes
-- baseline: the mean reward of the problem's episodes
-- groups: problem
-- constant in group: yes
--
-- MAGRPO (arXiv 2508.04652): an episode's return minus the mean of its problem's E episodes, for every role the same,
--     b = (1/E) sum_i R_i,   A_j = Q_j - b.
-- It is defined on the `episodes` plan, where a message has one episode; elsewhere a message takes the mean over those
-- that count towards it. A problem with one scored episode would compare it with itself: NULL.
-- The groups are the problem's: advantages.group_by has nothing to say.
with
alternatives as (
    select * replace (problem_id || '/' || role as group_id) from returns
),

problems as (
    select
        problem_id,
        count(reward) as episode_count,
        stable_sum(reward) / count(reward) as mean_reward,
        min(reward) = max(reward) as is_tied
    from episodes
    group by problem_id
),

groups as (
    select group_id, count(mean_return) as group_size
    from alternatives
    group by group_id
),

final as (
    select
        alternatives.*,
        groups.group_size,
        case
            when alternatives.mean_return is null or problems.episode_count < 2 then null
            -- a tie is exactly 0: rounding in the sum must not make signal out of none
            when problems.is_tied then alternatives.mean_return
            -- two sums of the same rewards in other groupings differ in their last bits: that is no difference either
            when abs(alternatives.mean_return - problems.mean_reward) <= 2e-15 * abs(alternatives.mean_return)
                then alternatives.mean_return
            else problems.mean_reward
        end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join problems on problems.problem_id = alternatives.problem_id
    inner join groups on groups.group_id = alternatives.group_id
)

select * from final
