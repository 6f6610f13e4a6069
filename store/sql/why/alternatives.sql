-- grain: one alternative of the requested groups, with its message and what the update made of it
-- parameter: groups
select
    advantages.*,
    decisions.text,
    decisions.finish_reason,
    decisions.new_tokens,
    update_rows.advantage as trained_advantage,
    update_rows.skipped,
    update_rows.behaviour_logprob,
    update_rows.policy_logprob,
    update_rows.decision_id is not null as was_updated
from advantages
inner join decisions on decisions.decision_id = advantages.decision_id
left join update_rows on update_rows.decision_id = advantages.decision_id
where list_contains($groups, advantages.group_id)
order by advantages.problem_id, advantages.depth, advantages.group_id, decisions.path
