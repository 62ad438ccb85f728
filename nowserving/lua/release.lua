-- A worker gives a job back: to its old place, or after a delay.
-- ARGV: now, id, claim, cause, refund ('1' or '0'), tokens ('' or the exact bound), delay ('' or s), max_attempts
-- Answers: {'queued'} · {'failed'} (a charge that stands was its last) · {'lost'}
-- Promises: the job stands in its queue once, at its sequence; nothing for a lost claim.
even_if_full()
local id = ARGV[2]
local job = read(id)
if not job or job.claim ~= ARGV[3] then return {'lost'} end
if ARGV[5] == '1' then
  refund(id, job)
elseif job.charged == '1' and job.attempt >= tonumber(ARGV[8]) then
  give_up(id, job)
  return {'failed'}
end
-- A take that came to nothing is none.
if job.begun ~= job.claim then redis.call('HSET', JOB .. id, 'takes', job.takes - 1) end
if ARGV[6] ~= '' then redis.call('HSET', JOB .. id, 'tokens', ARGV[6]) end
requeue(id, job, ARGV[4])
if ARGV[7] ~= '' then
  redis.call('ZREM', job.queue, id)
  redis.call('ZADD', DELAYED .. job.model, now + tonumber(ARGV[7]), id)
end
return {'queued'}
