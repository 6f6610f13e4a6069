-- grain: one pair of estimators and role, over the alternatives that both give an advantage
-- sign_agreement: share of alternatives on which both say better, both say worse, or both say neither
-- correlation: Pearson's; NULL where one of the two never varies
-- reads: compared
select
    a.estimator as estimator,
    b.estimator as other,
    a.role as role,
    count(*) as alternatives,
    avg((sign(a.advantage) = sign(b.advantage))::double) as sign_agreement,
    case
        when min(a.advantage) < max(a.advantage) and min(b.advantage) < max(b.advantage)
            then corr(a.advantage, b.advantage order by a.decision_id)
    end as correlation
from compared as a
inner join compared as b on b.decision_id = a.decision_id and b.estimator > a.estimator
where a.advantage is not null and b.advantage is not null
group by a.estimator, b.estimator, a.role, a.depth
order by a.depth, a.role, a.estimator, b.estimator
