-- Accept a job: record, queue entry and wake-up in one step.
-- ARGV: now, id, model, max_depth, start_within ('' or s), idempotency key ('' or text), fingerprint, key TTL s, field, value, …
-- Answers: {'queued', id, sequence, created_at, position, depth}
--          {'exists', id, sequence} (this id, or this key with the same fingerprint)
--          {'conflict', id} (this key with another fingerprint) · {'full', depth}
-- Promises: at most one job an id and a key, however often the command is sent. Refused by Redis when it is full.
local id, model, key = ARGV[2], ARGV[3], ARGV[6]

local function sequence_of(job_id)
  local sequence = redis.call('HGET', JOB .. job_id, 'sequence')
  return number(sequence) and sequence
end

if key ~= '' then
  local seen = redis.call('GET', IDEMPOTENCY .. key)
  if seen then
    local fingerprint, earlier = string.match(seen, '^(%S+) (%S+)$')
    if earlier and fingerprint ~= ARGV[7] then return {'conflict', earlier} end
    if earlier then return {'exists', earlier, sequence_of(earlier) or '0'} end
  end
end
local known = sequence_of(id)
if known then return {'exists', id, known} end
local normal, batch = redis.call('ZCARD', QUEUE .. model), redis.call('ZCARD', QUEUE .. model .. BATCH)
local waiting = normal + batch + redis.call('ZCARD', DELAYED .. model)
if waiting >= tonumber(ARGV[4]) then return {'full', waiting} end

-- Half a record, if any, is nobody's.
if redis.call('EXISTS', JOB .. id) == 1 then redis.call('UNLINK', JOB .. id) end
local sequence = next_sequence()
redis.call('HSET', JOB .. id, 'id', id, 'status', 'queued', 'sequence', sequence, 'created_at', stamp(now),
  unpack(ARGV, 9))
local job = read(id)
if ARGV[5] ~= '' then
  local start_by = now + tonumber(ARGV[5])
  redis.call('HSET', JOB .. id, 'start_by', stamp(start_by))
  redis.call('ZADD', STARTING .. model, start_by, id)
end
if key ~= '' then redis.call('SET', IDEMPOTENCY .. key, ARGV[7] .. ' ' .. id, 'EX', ARGV[8]) end
redis.call('ZADD', JOBS, sequence, id)
redis.call('ZREM', FINISHED, id)
enter(id, job)
local position = job.lane == 'batch' and normal + batch or normal
return {'queued', id, tostring(sequence), stamp(now), position, normal + batch + 1}
