-- A job as it stands, and, while it waits, what it waits for.
-- ARGV: now, id
-- Answers: {} · {fields} · {fields, position, depth, run_seconds, delayed until, {worker's JSON, …}}
-- Promises: changes nothing; all figures are of one instant.
local fields = redis.call('HGETALL', JOB .. ARGV[2])
if #fields == 0 then return {} end
local job = read(ARGV[2])
if not job or job.status ~= 'queued' then return {fields} end
local model, rank = job.model, redis.call('ZRANK', job.queue, ARGV[2])
local normal, batch = redis.call('ZCARD', QUEUE .. model), redis.call('ZCARD', QUEUE .. model .. BATCH)
if rank and job.lane == 'batch' then rank = rank + normal end
local workers = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', ALIVE .. model, now, '+inf', 'LIMIT', 0, 100)) do
  workers[#workers + 1] = redis.call('HGET', WORKERS .. model, worker) or nil
end
return {fields, tostring(rank or normal + batch), tostring(normal + batch),
  redis.call('HGET', STATS .. model, 'run_seconds') or '',
  redis.call('ZSCORE', DELAYED .. model, ARGV[2]) or '', workers}
