-- How deliveries stand, and how many have ended how since ever.
-- ARGV: now
-- Answers: {queued, sending, delayed, in line, attempts, delivered, dead, stopped}
-- Promises: changes nothing; all figures are of one instant.
local queued = redis.call('ZCARD', QUEUE .. WEBHOOKS) + redis.call('ZCARD', QUEUE .. WEBHOOKS .. BATCH)
local counts = {queued, redis.call('ZCARD', RUNNING .. WEBHOOKS),
  redis.call('ZCARD', DELAYED .. WEBHOOKS), redis.call('ZCARD', LINE)}
for _, name in ipairs({'attempts', 'succeeded', 'failed', 'canceled'}) do
  counts[#counts + 1] = number(redis.call('HGET', STATS .. WEBHOOKS, name)) or 0
end
return counts
