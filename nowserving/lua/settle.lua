-- One attempt at a delivery is over: the delivery ends, or waits for its next attempt.
-- ARGV: now, id, claim, status ('succeeded' | 'failed' | 'canceled' | 'queued'), seconds till the next attempt,
--       the attempt (JSON, one line), slow ('1': its host answered 5xx, late, or not at all),
--       seconds after which those that wait in such a host's line are given up
-- Answers: {'done'} · {'lost'}
-- Promises: counts once, however often it is sent; nothing for a lost claim; the host's next in line is let in.

-- Ends what stands in a host's line and was born, or sent anew by hand, before `since`: 100 a call, so that the line of a
-- host that never answers cannot grow for ever.
local function give_up_waiting(host, since)
  local message = cjson.encode({now, cjson.null, 0, 'given up: its host has answered nobody for too long', ''})
  for _, turn in ipairs(redis.call('ZRANGEBYLEX', LINE, '[' .. host .. ' ', '(' .. host .. '!', 'LIMIT', 0, 100)) do
    local id = string.sub(turn, #host + 2)
    local job = read(id)
    local waits_since, log = unpack(redis.call('HMGET', JOB .. id, 'waits_since', 'log'))
    if job and job.status == 'queued' and (number(waits_since) or now) < since then
      unqueue(id, job)
      redis.call('HSET', JOB .. id, 'log', (log and log ~= '' and log .. '\n' or '') .. message)
      close(id, job, 'failed')
    end
  end
end

even_if_full()
local BRISK_SECONDS, LOGGED = 3600, 20
local id, claim, status = ARGV[2], ARGV[3], ARGV[4]
local job = read(id)
if not job or not job.host then return {'lost'} end
local settled, tries, log = unpack(redis.call('HMGET', JOB .. id, 'settled', 'tries', 'log'))
if settled == claim then return {'done'} end
if job.claim ~= claim then return {'lost'} end
unclaim(id, job)
local lines = {}
for line in string.gmatch(log or '', '[^\n]+') do lines[#lines + 1] = line end
lines[#lines + 1] = ARGV[6]
-- Takes are counted anew: they are to find out what kills deliverers, and this has killed none.
redis.call('HSET', JOB .. id, 'settled', claim, 'tries', (number(tries) or 0) + 1, 'takes', 0,
  'log', table.concat(lines, '\n', math.max(1, #lines - LOGGED + 1)))
if ARGV[7] == '1' then
  redis.call('DEL', BRISK .. job.host)
  give_up_waiting(job.host, now - tonumber(ARGV[8]))
else
  redis.call('SET', BRISK .. job.host, '1', 'EX', BRISK_SECONDS)
end
add(STATS .. job.model, 'attempts', 1)
if status ~= 'queued' then
  close(id, job, status)
else
  redis.call('HSET', JOB .. id, 'status', status)
  redis.call('ZADD', DELAYED .. job.model, now + tonumber(ARGV[5]), id)
  depart(id, job)
end
return {'done'}
