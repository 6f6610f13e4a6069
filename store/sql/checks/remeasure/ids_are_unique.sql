-- no two messages of a round share an id
select decision_id, count(*) as times
from decisions
group by decision_id
having count(*) > 1
