-- The deliveries of one job, which may itself be forgotten.
-- ARGV: now, job id
-- Answers: {{field, value, …}, …}
-- Promises: changes nothing.
return deliveries_of(ARGV[2])
