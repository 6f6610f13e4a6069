-- no message after an intervention was drawn with a seed that another message was drawn with
select seed, count(*) as times
from decisions
where seed is not null
group by seed
having count(*) > 1
