-- Deliver once more, now: what has ended begins anew, what waits for its next attempt waits no longer.
-- ARGV: now, id
-- Answers: {field, value, …} of the delivery · {} (there is none)
-- Promises: one under way, or in the queue already, is left alone; the id stays.
even_if_full()
local id = ARGV[2]
local job = read(id)
if not job or not job.host then return {} end
if job.status == 'queued' then
  if redis.call('ZREM', DELAYED .. job.model, id) == 1 then enter(id, job) end
elseif job.status ~= 'running' then
  redis.call('HSET', JOB .. id, 'status', 'queued', 'tries', 0, 'takes', 0, 'waits_since', stamp(now))
  redis.call('HDEL', JOB .. id, 'finished_at', 'error')
  redis.call('PERSIST', JOB .. id)
  redis.call('ZREM', FINISHED, id)
  enter(id, job)
end
return told(id)
