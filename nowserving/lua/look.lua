-- A job as it stands, and, while it waits, what it waits for.
-- ARGV: now, id
-- Answers: {} · {fields} ({{}}: they are no record) · {fields, position, depth, run_seconds, delayed until, {worker's JSON, …}}
-- Promises: changes nothing; all figures are of one instant.
local fields = redis.pcall('HGETALL', JOB .. ARGV[2])
if fields.err then return {{}} end
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
local run_seconds = number(redis.call('HGET', STATS .. model, 'run_seconds'))
local delayed = redis.call('ZSCORE', DELAYED .. model, ARGV[2])
return {fields, tostring(rank or normal + batch), tostring(normal + batch),
  run_seconds and stamp(run_seconds) or '', number(delayed) and delayed or '', workers}
