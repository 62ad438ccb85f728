-- A worker gives a job back: to its old place, or, if a charge stands, to wait before its next try.
-- ARGV: now, id, claim, cause, charge ('refund' | 'keep' | 'charge'), tokens ('' or the exact bound), max_attempts,
--       error ('' or the JSON it fails with if that charge was its last)
-- Answers: {'queued'} · {'failed'} · {'lost'}
-- Promises: the job stands in its queue once, at its sequence, or in delayed; nothing for a lost claim.
even_if_full()
local id = ARGV[2]
local job = read(id)
if not job or job.claim ~= ARGV[3] then return {'lost'} end
if ARGV[5] == 'refund' then refund(id, job) end
if ARGV[5] == 'charge' then charge(id, job) end
if job.charged == '1' and job.attempt >= tonumber(ARGV[7]) then
  give_up(id, job, ARGV[8] ~= '' and ARGV[8] or nil)
  return {'failed'}
end
-- A take that came to nothing is none.
if job.begun ~= job.claim and job.charged ~= '1' then redis.call('HSET', JOB .. id, 'takes', job.takes - 1) end
if ARGV[6] ~= '' then redis.call('HSET', JOB .. id, 'tokens', ARGV[6]) end
requeue(id, job, ARGV[4])
return {'queued'}
