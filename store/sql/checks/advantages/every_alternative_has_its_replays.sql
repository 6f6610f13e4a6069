-- every alternative has the number of terminal evaluations that the plan gives its role, scored or not
select
    advantages.decision_id,
    advantages.role,
    planned.replays as planned,
    advantages.replay_count + advantages.unscored_count as found
from advantages
inner join (select distinct role, replays from spending) as planned on planned.role = advantages.role
where planned.replays <> advantages.replay_count + advantages.unscored_count
