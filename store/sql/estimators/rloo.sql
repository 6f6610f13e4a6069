-- grain: one alternative
-- reads: returns, episodes
-- baseline: the mean reward of the problem's episodes that do not pass through it
-- groups: problem
-- constant in group: unless plan replay
--
-- RLOO (arXiv 2402.14740) for a team: an episode's return minus the mean of its problem's other episodes,
--     b_{-j} = (sum_i R_i - sum_{i through j} R_i) / (E - E_j),   A_j = Q_j - b_{-j},
-- where the E_j episodes that pass through message j are left out, so that the baseline does not depend on it.
-- On the `episodes` plan E_j = 1. Where every episode of the problem passes through j there is no other: NULL.
-- The groups are the problem's: advantages.group_by has nothing to say.
with
alternatives as (
    select * replace (problem_id || '/' || role as group_id) from returns
),

problems as (
    select
        problem_id,
        count(reward) as episode_count,
        stable_sum(reward) as total,
        min(reward) = max(reward) as is_tied
    from episodes
    group by problem_id
),

passages as (
    select unnest(decision_ids) as decision_id, reward
    from episodes
),

own as (
    select decision_id, count(reward) as episode_count, stable_sum(reward) as total
    from passages
    group by decision_id
),

others as (
    select
        own.decision_id,
        (problems.total - own.total) / nullif(problems.episode_count - own.episode_count, 0) as mean_reward
    from own
    inner join alternatives on alternatives.decision_id = own.decision_id
    inner join problems on problems.problem_id = alternatives.problem_id
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
            when alternatives.mean_return is null or problems.episode_count = own.episode_count then null
            -- a tie is exactly 0: rounding in the sum must not make signal out of none
            when problems.is_tied then alternatives.mean_return
            -- two sums of the same rewards in other groupings differ in their last bits: that is no difference either
            when abs(alternatives.mean_return - others.mean_reward) <= 2e-15 * abs(alternatives.mean_return)
                then alternatives.mean_return
            else others.mean_reward
        end as baseline,
        alternatives.mean_return - baseline as advantage
    from alternatives
    inner join problems on problems.problem_id = alternatives.problem_id
    inner join own on own.decision_id = alternatives.decision_id
    inner join others on others.decision_id = alternatives.decision_id
    inner join groups on groups.group_id = alternatives.group_id
)

select * from final
