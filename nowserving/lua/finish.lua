-- End a running job with its last tokens and its result, in one step.
-- ARGV: now, id, claim, status, 'output' or 'error', its JSON, index of the first last token, count, ids, text,
--       prompt_tokens ('' unless it began only now: a job this short needs no begin of its own), anew as in begin,
--       finish_reason of the output that an error gets beside it, '' for none: what was made until then
-- Answers: {'done', status} · {'lost'}
-- Promises: one terminal status and one terminal event a job; the claim that ended it gets the same answer again.
even_if_full()
local id, claim, status = ARGV[2], ARGV[3], ARGV[4]
local job = read(id)
if not job then return {'lost'} end
if job.finished_by == claim then return {'done', job.status} end
if job.claim ~= claim then return {'lost'} end
if ARGV[11] ~= '' then start(id, job, ARGV[11], ARGV[12] == '1') end
local first, count = tonumber(ARGV[7]), tonumber(ARGV[8])
if first == job.generated and (count > 0 or ARGV[10] ~= '') then
  stream(id, job, first, count, ARGV[9], ARGV[10])
end
unclaim(id, job)
redis.call('HSET', JOB .. id, 'finished_by', claim)
if ARGV[13] ~= '' then
  close(id, job, status, ARGV[5], ARGV[6], 'output', made_until(id, job, ARGV[13]))
else
  close(id, job, status, ARGV[5], ARGV[6])
end
local average = number(redis.call('HGET', STATS .. job.model, 'run_seconds'))
local run_seconds = average and average * 0.9 + job.ran_seconds * 0.1 or job.ran_seconds
redis.call('HSET', STATS .. job.model, 'run_seconds', stamp(run_seconds))
return {'done', status}
