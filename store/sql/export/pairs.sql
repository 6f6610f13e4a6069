-- grain: one state with two alternatives of different mean return: its best and its worst
-- Equal returns: the first drawn. A state whose returns all tie teaches no preference and is left out.
-- parameter: role (NULL: all)
with
returned as (
    select advantages.*, decisions.text, decisions.path, decisions.finish_reason
    from advantages
    inner join decisions on decisions.decision_id = advantages.decision_id
    where advantages.mean_return is not null and advantages.role = coalesce($role, advantages.role)
),

ranked as (
    select
        *,
        row_number() over (partition by state_id order by mean_return desc, draw) as from_the_best,
        row_number() over (partition by state_id order by mean_return, draw) as from_the_worst
    from returned
),

final as (
    select
        best.problem_id,
        best.role,
        best.state_id,
        contexts.token_ids as context_ids,
        best.decision_id as chosen_id,
        best.text as chosen,
        best.mean_return as chosen_return,
        best.finish_reason = 'length' as chosen_truncated,
        worst.decision_id as rejected_id,
        worst.text as rejected,
        worst.mean_return as rejected_return,
        worst.finish_reason = 'length' as rejected_truncated
    from ranked as best
    inner join ranked as worst on worst.state_id = best.state_id
    inner join contexts on contexts.state_id = best.state_id
    where best.from_the_best = 1 and worst.from_the_worst = 1 and best.mean_return > worst.mean_return
    order by best.problem_id, best.depth, best.path[: best.depth - 1]
)

select * from final
