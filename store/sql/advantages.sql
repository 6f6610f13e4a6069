-- grain: one alternative; the stored order
-- reads: normalised; variables estimator, normalisation (their names)
create or replace temporary view advantages as
select
    decision_id,
    state_id,
    context_id,
    problem_id,
    role,
    depth,
    draw,
    is_logged,
    policy_version,
    group_id,
    group_size::integer as group_size,
    replay_count::integer as replay_count,
    unscored_count::integer as unscored_count,
    mean_return,
    baseline,
    advantage,
    getvariable('estimator') as estimator,
    getvariable('normalisation') as normalisation
from normalised
order by problem_id, depth, path
