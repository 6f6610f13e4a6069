-- every alternative is either trained on or skipped for a reason
select advantages.decision_id, count(trained.decision_id) as times
from advantages
left join trained on trained.decision_id = advantages.decision_id
group by advantages.decision_id
having count(trained.decision_id) <> 1
