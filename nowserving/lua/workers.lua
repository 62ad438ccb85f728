-- The live workers of each model, as they last described themselves.
-- ARGV: now, model, …
-- Answers: {model, worker, JSON} for each
-- Promises: changes nothing.
local workers = {}
for i = 2, #ARGV do
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', ALIVE .. ARGV[i], now, '+inf')) do
    workers[#workers + 1] = {ARGV[i], worker, redis.call('HGET', WORKERS .. ARGV[i], worker) or '{}'}
  end
end
return workers
