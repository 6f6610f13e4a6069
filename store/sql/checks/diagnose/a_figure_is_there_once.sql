-- every figure of a role is there once
select name, role, count(*) as times
from diagnostics
group by name, role
having count(*) > 1
