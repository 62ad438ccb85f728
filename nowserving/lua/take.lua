-- Pop the first jobs that may run and claim them for a worker, in one step.
-- ARGV: now, model, worker, lease s, headroom tokens, capacity tokens, max_takes, claim, …
-- Answers: {{claim, id, field, value, …}, …} (at most one a claim, and this worker's share of what waits)
--          {'unfit', id, tokens} (none, and the head stays: it is larger than the headroom)
--          {'suspect', id} (none: the head runs alone, or a job of this worker does till its first new token) · {}
-- Promises: a job is in its queue or under a lease at every instant; the same claim gets the same job again.
-- The headroom holds for each: who sends several claims has room for as many jobs of that size.
-- A suspect, which may have killed its last worker, gets a worker for itself till it has made a token.
-- A job larger than a whole worker (capacity) is judged by the capacity: the worker that has all of it free decides.
local model, worker, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
local headroom, capacity = tonumber(ARGV[5]), tonumber(ARGV[6])
local max_takes = tonumber(ARGV[7])

local function answer(claim, id)
  local fields = redis.call('HGETALL', JOB .. id)
  table.insert(fields, 1, claim)
  table.insert(fields, 2, id)
  return fields
end

-- The first job of a lane that this worker may run, after setting aside and ending what stands before it.
local function head(lane)
  local queue, newer, ended = QUEUE .. model .. lane, 0, 0
  while newer < 1000 and ended < 100 do
    local id = redis.call('ZRANGE', queue, newer, newer)[1]
    if not id then return nil end
    local job, why = read(id)
    if why == NEWER then
      newer = newer + 1
    elseif not job then
      ended = ended + 1
      set_aside(model, queue, id, why)
    elseif job.status ~= 'queued' or job.queue ~= queue then
      ended = ended + 1
      set_aside(model, queue, id, 'its record says ' .. job.status .. ' in ' .. job.queue)
    elseif job.start_by and now > job.start_by then
      ended = ended + 1
      expire(id, job)
    elseif job.takes >= max_takes then
      ended = ended + 1
      unqueue(id, job)
      close(id, job, 'failed', 'error', problem('worker_lost', 'it was taken ' .. job.takes .. ' times', true))
    else
      return id, job
    end
  end
end

local function take(claim, id, job)
  unqueue(id, job)
  redis.call('HSET', JOB .. id, 'status', 'running', 'claim', claim, 'worker', worker, 'taken_at', stamp(now),
    'takes', job.takes + 1, 'lease', ARGV[4], 'charged', '0')
  redis.call('HSETNX', JOB .. id, 'started_at', stamp(now))
  redis.call('ZADD', RUNNING .. model, now + lease, id)
  redis.call('HSET', HELD .. worker, claim, id)
  if job.suspect then
    redis.call('HSET', ALONE .. model, worker, id)
    -- Charged already now: it may kill this worker, too, before anyone can say that it has begun.
    job.charged = '0'
    charge(id, job)
  end
end

even_if_full()
local waiting = redis.call('ZCARD', QUEUE .. model) + redis.call('ZCARD', QUEUE .. model .. BATCH)
local share = math.ceil(waiting / math.max(1, redis.call('ZCARD', ALIVE .. model)))
local taken, fresh = {}, 0
for i = 8, #ARGV do
  local claim = ARGV[i]
  local held = redis.call('HGET', HELD .. worker, claim)
  if held then
    taken[#taken + 1] = answer(claim, held)
  elseif fresh < share then
    local alone = redis.call('HGET', ALONE .. model, worker)
    local id, job
    if not alone then
      id, job = head('')
      if not id then id, job = head(BATCH) end
      if not id then break end
      if job.suspect and redis.call('EXISTS', HELD .. worker) == 1 then alone = id end
    end
    if alone then
      if #taken == 0 then return {'suspect', alone} end
      break
    end
    if math.min(job.tokens, capacity) > headroom then
      if #taken == 0 then return {'unfit', id, tostring(job.tokens)} end
      break
    end
    take(claim, id, job)
    fresh = fresh + 1
    taken[#taken + 1] = answer(claim, id)
  end
end
if #taken > 0 then redis.call('HSET', BUSY .. model, worker, redis.call('HLEN', HELD .. worker)) end
return taken
