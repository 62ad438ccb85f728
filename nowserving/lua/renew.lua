-- A worker's heartbeat: its leases go on, it learns which are lost, and what time has brought about is done.
-- ARGV: now, model, worker, lease s, draining ('1'|'0'), blocked ('1'|'0'), reap until (s), max_attempts,
--       what it says of itself (JSON), claim, …
-- Answers: {lost claims, strangers, now}: a stranger is {claim, id} that Redis holds for this worker and it did not name
-- Promises: only claims still held are renewed; a draining worker is not busy; a worker that stops is forgotten.
even_if_full()
local model, worker, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
local unnamed, lost, strangers = {}, {}, {}
local held = redis.call('HGETALL', HELD .. worker)
for i = 1, #held, 2 do
  if redis.call('EXISTS', JOB .. held[i + 1]) == 1 then
    unnamed[held[i]] = held[i + 1]
  else
    redis.call('HDEL', HELD .. worker, held[i])
  end
end
for i = 10, #ARGV do
  local claim = ARGV[i]
  if unnamed[claim] then
    redis.call('ZADD', RUNNING .. model, 'XX', now + lease, unnamed[claim])
    unnamed[claim] = nil
  else
    lost[#lost + 1] = claim
  end
end
for claim, id in pairs(unnamed) do strangers[#strangers + 1] = {claim, id} end
local jobs = redis.call('HLEN', HELD .. worker)
if ARGV[5] == '1' or jobs == 0 then
  redis.call('HDEL', BUSY .. model, worker)
else
  redis.call('HSET', BUSY .. model, worker, jobs)
end
if ARGV[6] == '1' then
  redis.call('ZADD', BLOCKED .. model, now + lease, worker)
else
  redis.call('ZREM', BLOCKED .. model, worker)
end
redis.call('ZADD', ALIVE .. model, now + lease, worker)
redis.call('HSET', WORKERS .. model, worker, ARGV[9])
reap(model, tonumber(ARGV[8]), tonumber(ARGV[7]))
return {lost, strangers, stamp(now)}
