-- A job as it stands, and, while it waits, what it waits for.
-- ARGV: now, id
-- Answers: {} · {fields, deliveries} (fields {}: they are no record), and while it waits also
--          position, depth, run_seconds, delayed until, {worker's JSON, …}
-- Promises: changes nothing; all figures are of one instant.
local fields = redis.pcall('HGETALL', JOB .. ARGV[2])
if fields.err then return {{}, {}} end
if #fields == 0 then return {} end
local job = read(ARGV[2])
local deliveries = redis.call('HEXISTS', JOB .. ARGV[2], 'webhook') == 1 and deliveries_of(ARGV[2]) or {}
if not job or job.status ~= 'queued' then return {fields, deliveries} end
local model = job.model
local depth = redis.call('ZCARD', QUEUE .. model) + redis.call('ZCARD', QUEUE .. model .. BATCH)
local position, due = stand(ARGV[2], job)
local workers = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', ALIVE .. model, now, '+inf', 'LIMIT', 0, 100)) do
  workers[#workers + 1] = redis.call('HGET', WORKERS .. model, worker) or nil
end
local run_seconds = number(redis.call('HGET', STATS .. model, 'run_seconds'))
return {fields, deliveries, position, tostring(depth), run_seconds and stamp(run_seconds) or '', due, workers}
