-- A worker stops: everything it still holds goes back uncharged, and its name vanishes from all keys.
-- ARGV: now, model, worker
-- Answers: {number of jobs handed back}
-- Promises: harmless if repeated; a worker of that name that still runs finds all its claims lost.
even_if_full()
local model, worker = ARGV[2], ARGV[3]
local held, count = redis.call('HGETALL', HELD .. worker), 0
for i = 1, #held, 2 do
  local job = read(held[i + 1])
  if job and job.claim == held[i] then
    refund(held[i + 1], job)
    requeue(held[i + 1], job, 'drained')
    count = count + 1
  end
end
redis.call('DEL', HELD .. worker)
redis.call('HDEL', BUSY .. model, worker)
redis.call('ZREM', BLOCKED .. model, worker)
redis.call('ZREM', ALIVE .. model, worker)
redis.call('HDEL', WORKERS .. model, worker)
redis.call('HDEL', ALONE .. model, worker)
return {count}
