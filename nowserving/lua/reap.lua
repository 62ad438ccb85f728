-- The tick that API processes share: what time brings about happens also while no worker lives.
-- ARGV: now, who, period ms ('0' = always), max_attempts, reap until (s), model, …
-- Answers: {requeued, failed, expired, forgotten, now}; all 0 if another process has this period's tick
-- Promises: each step is atomic; no leader: any process may do it, at most one a period does.
even_if_full()
local period = tonumber(ARGV[3])
if period > 0 and not redis.call('SET', TICK, ARGV[2], 'NX', 'PX', period) then
  return {0, 0, 0, 0, stamp(now)}
end
local requeued, failed, expired = 0, 0, 0
for i = 6, #ARGV do
  local r, f, e = reap(ARGV[i], tonumber(ARGV[4]), tonumber(ARGV[5]))
  requeued, failed, expired = requeued + r, failed + f, expired + e
end
local forgotten = redis.call('ZRANGEBYSCORE', FINISHED, '-inf', now, 'LIMIT', 0, 1000)
for _, id in ipairs(forgotten) do
  redis.call('DEL', JOB .. id, EVENTS .. id)
  redis.call('ZREM', JOBS, id)
  redis.call('ZREM', FINISHED, id)
end
return {requeued, failed, expired, #forgotten, stamp(now)}
