-- How each model's queue stands.
-- ARGV: now, model, …
-- Answers: for each {model, normal, batch, delayed, running, busy, blocked, dead, oldest wait s or '', run_seconds or ''}
-- Promises: changes nothing; all figures are of one instant.
local function count_dead(model)
  local more = number(redis.call('HGET', DEAD .. model, MORE))
  return redis.call('HLEN', DEAD .. model) + (more and more - 1 or 0)
end

local queues = {}
for i = 2, #ARGV do
  local model, oldest = ARGV[i], ''
  for _, lane in ipairs({'', BATCH}) do
    local head = redis.call('ZRANGE', QUEUE .. model .. lane, 0, 0)[1]
    local created_at = head and number(redis.pcall('HGET', JOB .. head, 'created_at'))
    if created_at then oldest = math.max(tonumber(oldest) or 0, now - created_at) end
  end
  local run_seconds = number(redis.call('HGET', STATS .. model, 'run_seconds'))
  queues[#queues + 1] = {model, redis.call('ZCARD', QUEUE .. model), redis.call('ZCARD', QUEUE .. model .. BATCH),
    redis.call('ZCARD', DELAYED .. model), redis.call('ZCARD', RUNNING .. model), redis.call('HLEN', BUSY .. model),
    redis.call('ZCOUNT', BLOCKED .. model, now, '+inf'), count_dead(model), oldest ~= '' and stamp(oldest) or '',
    run_seconds and stamp(run_seconds) or ''}
end
return queues
