-- grain: one alternative
-- The advantage as the estimator gave it.
select * from credit
