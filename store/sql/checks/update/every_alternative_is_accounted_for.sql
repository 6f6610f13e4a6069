-- every alternative is either trained on or skipped for a reason
select advantages.decision_id, count(update_rows.decision_id) as times
from advantages
left join update_rows on update_rows.decision_id = advantages.decision_id
group by advantages.decision_id
having count(update_rows.decision_id) <> 1
