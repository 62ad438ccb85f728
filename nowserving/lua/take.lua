-- Pop the first job that may run and claim it for a worker, in one step.
-- ARGV: now, model, worker, claim, lease s, headroom tokens, capacity tokens, max_takes, version
-- Answers: {'taken', field, value, …} · {'unfit', id, tokens} (the head stays: it is larger than the headroom)
--          {'empty'}
-- Promises: a job is in its queue or under a lease at every instant; the same claim gets the same job again.
-- A job larger than a whole worker (capacity) is judged by the capacity: the worker that has all of it free decides.
local model, worker, claim = ARGV[2], ARGV[3], ARGV[4]
local headroom, capacity = tonumber(ARGV[6]), tonumber(ARGV[7])
local max_takes, version = tonumber(ARGV[8]), tonumber(ARGV[9])

local function answer(id)
  local fields = redis.call('HGETALL', JOB .. id)
  table.insert(fields, 1, 'taken')
  return fields
end

local held = redis.call('HGET', HELD .. worker, claim)
if held then return answer(held) end

even_if_full()
for _, lane in ipairs({'', BATCH}) do
  local queue, newer = QUEUE .. model .. lane, 0
  for _ = 1, 100 do
    local id = redis.call('ZRANGE', queue, newer, newer)[1]
    if not id then break end
    local job = read(id)
    if not job then
      set_aside(model, queue, id, 'no readable record')
    elseif job.v > version then
      newer = newer + 1
    elseif job.status ~= 'queued' or job.queue ~= queue then
      set_aside(model, queue, id, 'its record says ' .. job.status .. ' in ' .. job.queue)
    elseif job.start_by and now > tonumber(job.start_by) then
      unqueue(id, job)
      close(id, job, 'expired', 'error', problem('expired', 'it could not be started in time', true))
    elseif job.takes >= max_takes then
      unqueue(id, job)
      close(id, job, 'failed', 'error', problem('worker_lost', 'it was taken ' .. job.takes .. ' times', true))
    elseif math.min(job.tokens, capacity) > headroom then
      return {'unfit', id, tostring(job.tokens)}
    else
      unqueue(id, job)
      redis.call('HSET', JOB .. id, 'status', 'running', 'claim', claim, 'worker', worker, 'taken_at', stamp(now),
        'takes', job.takes + 1)
      redis.call('HSETNX', JOB .. id, 'started_at', stamp(now))
      redis.call('ZADD', RUNNING .. model, now + tonumber(ARGV[5]), id)
      redis.call('HSET', HELD .. worker, claim, id)
      redis.call('HSET', BUSY .. model, worker, redis.call('HLEN', HELD .. worker))
      return answer(id)
    end
  end
end
return {'empty'}
