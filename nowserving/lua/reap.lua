-- The tick that API processes share: what time brings about happens also while no worker lives.
-- ARGV: now, who, period ms ('0' = always), max_attempts, reap until (s), model, …
-- Answers: {requeued, failed, expired, forgotten, now}; all 0 if another process has this period's tick
-- Promises: each step is atomic; no leader: any process may do it, at most one a period does. A collapsed stream keeps
-- the ids of its events, but has none of progress, and of all token events one: the last, of index 0 and with the ids
-- and text of all.
-- Whoever resumes after one that is gone must know how much it has seen (api/place.py). An API process of a version
-- that did not know refuses such a reader, or tells it tokens again; so it is done only when live readers are gone.
even_if_full()
local COLLAPSES, ENTRIES, LONGEST_STREAM = 100, 4000, 20000

-- Makes an ended job's token events one. Done twice is done once.
local function collapse(id)
  local job, key = read(id), EVENTS .. id
  if not job or job.status == 'queued' or job.status == 'running' then return end
  local entries = redis.call('XRANGE', key, '-', '+')
  local told = made(entries)
  local left = redis.call('PTTL', key)
  redis.call('DEL', key)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    if entry == told.last then
      redis.call('XADD', key, entry[1], 'type', 'token', 'at', fields[4], 'index', 0, 'ids', told.ids, 'text', told.text)
    elseif fields[2] ~= 'token' and fields[2] ~= 'progress' then
      redis.call('XADD', key, entry[1], unpack(fields))
    end
  end
  if left > 0 then redis.call('PEXPIRE', key, left) end
end

-- The work of a call is bounded by the entries it reads: 4,000 keep Redis from others for about 10 ms.
local function collapse_due()
  local entries = 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', COLLAPSE, '-inf', now, 'LIMIT', 0, COLLAPSES)) do
    local length = redis.pcall('XLEN', EVENTS .. id)
    if type(length) ~= 'number' or length > LONGEST_STREAM then length = 0 end
    if entries > 0 and entries + length > ENTRIES then return end
    entries = entries + length
    redis.call('ZREM', COLLAPSE, id)
    if length > 0 then collapse(id) end
  end
end

local period = tonumber(ARGV[3])
if period > 0 and not redis.call('SET', TICK, ARGV[2], 'NX', 'PX', period) then
  -- One that lasts longer than a period is of a clock that has been put back.
  local left = redis.call('PTTL', TICK)
  if left >= 0 and left <= period then return {0, 0, 0, 0, stamp(now)} end
  redis.call('SET', TICK, ARGV[2], 'PX', period)
end
local requeued, failed, expired = 0, 0, 0
for i = 6, #ARGV do
  local r, f, e = reap(ARGV[i], tonumber(ARGV[4]), tonumber(ARGV[5]))
  requeued, failed, expired = requeued + r, failed + f, expired + e
end
local forgotten = redis.call('ZRANGEBYSCORE', FINISHED, '-inf', now, 'LIMIT', 0, 1000)
for _, id in ipairs(forgotten) do
  local status = redis.pcall('HGET', JOB .. id, 'status')
  -- A job that has not ended is never forgotten, whoever put it there.
  if status ~= 'queued' and status ~= 'running' then
    redis.call('DEL', JOB .. id, EVENTS .. id)
    redis.call('ZREM', JOBS, id)
    redis.call('ZREM', DELIVERIES, id)
  end
  redis.call('ZREM', FINISHED, id)
  redis.call('ZREM', COLLAPSE, id)
end
collapse_due()
return {requeued, failed, expired, #forgotten, stamp(now)}
