-- Shared, last: how jobs and deliveries pass from status to status.

-- Ends a claim: from here on no write that carries it has effect. After a lapsed lease only the time up to its last
-- renewal counts as run: nobody knows more.
local function unclaim(id, job)
  local deadline = number(redis.call('ZSCORE', RUNNING .. job.model, id))
  local ended = deadline and now > deadline and deadline - (number(job.lease) or 0) or now
  job.worker, job.claim = job.worker or '', job.claim or ''
  redis.call('ZREM', RUNNING .. job.model, id)
  redis.call('HDEL', HELD .. job.worker, job.claim)
  if redis.call('HEXISTS', BUSY .. job.model, job.worker) == 1 then
    local jobs = redis.call('HLEN', HELD .. job.worker)
    if jobs > 0 then
      redis.call('HSET', BUSY .. job.model, job.worker, jobs)
    else
      redis.call('HDEL', BUSY .. job.model, job.worker)
    end
  end
  if job.suspect then redis.call('HDEL', ALONE .. job.model, job.worker) end
  job.ran_seconds = job.ran_seconds + math.max(0, ended - job.taken_at)
  redis.call('HSET', JOB .. id, 'ran_seconds', stamp(job.ran_seconds))
  redis.call('HDEL', JOB .. id, 'claim', 'taken_at')
end

-- Charges an attempt to this claim, unless one stands.
local function charge(id, job)
  if job.charged == '1' then return end
  job.attempt, job.charged = job.attempt + 1, '1'
  redis.call('HSET', JOB .. id, 'charged', '1', 'attempt', job.attempt)
end

-- Takes back the attempt that this claim was charged, if it was.
local function refund(id, job)
  if job.charged ~= '1' then return end
  job.attempt, job.charged = job.attempt - 1, '0'
  redis.call('HSET', JOB .. id, 'charged', '0', 'attempt', job.attempt)
end

-- The engine has begun the job's prefill: one charge a claim. An engine that cannot resume begins the text anew.
local function start(id, job, prompt_tokens, anew)
  if job.begun == job.claim then return end
  charge(id, job)
  job.begun = job.claim
  job.prompt_tokens = prompt_tokens
  redis.call('HSET', JOB .. id, 'begun', job.claim, 'prompt_tokens', prompt_tokens)
  redis.call('HDEL', JOB .. id, 'start_by')
  emit(id, 'started', 'attempt', job.attempt, 'worker', job.worker)
  report(id, job, 'started')
  if anew and job.generated > 0 then
    job.generated = 0
    redis.call('HSET', JOB .. id, 'generated', 0)
    emit(id, 'restarted')
  end
end

-- New tokens go on the stream; the first of a claim shows that the job is no poison, whatever it was charged before.
local function stream(id, job, first, count, ids, text)
  job.generated = first + count
  redis.call('HSET', JOB .. id, 'generated', job.generated)
  if job.attempt > 0 then
    job.attempt, job.charged = 0, '0'
    redis.call('HSET', JOB .. id, 'charged', '0', 'attempt', 0)
  end
  if job.suspect then
    job.suspect = nil
    redis.call('HDEL', JOB .. id, 'suspect')
    redis.call('HDEL', ALONE .. job.model, job.worker)
  end
  emit(id, 'token', 'index', first, 'ids', ids, 'text', text)
end

-- How long a job waits after so many charges: doubled each time, with jitter that a resent script repeats.
local function backoff(id, job)
  local spread = job.takes
  for i = 1, #id do spread = (spread * 31 + string.byte(id, i)) % 65521 end
  return math.min(60, 2 ^ (job.attempt - 1)) * (0.5 + spread / 65521 / 2)
end

-- A running job goes back to its old place; one whose charge stands is a suspect, and waits before it gets there.
local function requeue(id, job, cause)
  unclaim(id, job)
  redis.call('HSET', JOB .. id, 'status', 'queued')
  redis.call('HDEL', JOB .. id, 'worker')
  if job.host then return enter(id, job) end
  if job.charged == '1' then
    redis.call('HSET', JOB .. id, 'suspect', '1')
    redis.call('ZADD', DELAYED .. job.model, now + backoff(id, job), id)
  else
    enter(id, job)
  end
  if job.start_by then redis.call('ZADD', STARTING .. job.model, job.start_by, id) end
  emit(id, 'queued', 'cause', cause)
end

-- A job's stream is told anew, in short, so long after its end; by then its live readers have read it.
local COLLAPSE_SECONDS = 30

-- A delivery that has failed for good is kept at least so long for a person.
local DEAD_SECONDS = 7 * 86400

-- From now on an ended job or delivery is kept for its retain_seconds.
local function keep(id, job)
  local retain = math.max(1, math.ceil(job.retain_seconds), job.host and job.status == 'failed' and DEAD_SECONDS or 1)
  redis.call('ZADD', FINISHED, now + retain, id)
  redis.call('EXPIRE', JOB .. id, retain)
  redis.call('EXPIRE', EVENTS .. id, retain)
  return retain
end

-- The one way into a terminal status, with 'output' or 'error' and its JSON, or both.
local function close(id, job, status, ...)
  redis.call('HSET', JOB .. id, 'status', status, 'finished_at', stamp(now), ...)
  job.status = status
  if job.host then
    add(STATS .. job.model, status, 1)
    depart(id, job)
    return keep(id, job)
  end
  emit(id, status, ...)
  redis.call('PUBLISH', ENDED, id)
  report(id, job, status)
  local retain = keep(id, job)
  -- Three events are as short as it gets: started, one token event, the end.
  if retain > COLLAPSE_SECONDS and redis.call('XLEN', EVENTS .. id) > 3 then
    redis.call('ZADD', COLLAPSE, now + COLLAPSE_SECONDS, id)
  end
end

local function expire(id, job)
  unqueue(id, job)
  close(id, job, 'expired', 'error', problem('expired', 'it could not be started in time', true))
end

-- A job that has used up its attempts ends, instead of killing one more worker. `json` is the last error, if known.
local function give_up(id, job, json)
  unclaim(id, job)
  close(id, job, 'failed', 'error', json or problem('worker_lost',
    'its worker died ' .. job.attempt .. ' times before a first new token', true))
end

-- Jobs of each kind that one call deals with: some 10 ms.
local DUE = 1000

-- What time alone brings about for one model, at most 1,000 jobs of each kind a call. Leases that have lapsed are reaped
-- only until `reap_until`: then whoever asks has not heard from Redis for so long that others may not have been heard.
local function reap(model, max_attempts, reap_until)
  local requeued, failed, expired = 0, 0, 0
  local lapsed = now <= reap_until and redis.call('ZRANGEBYSCORE', RUNNING .. model, '-inf', now, 'LIMIT', 0, DUE) or {}
  for _, id in ipairs(lapsed) do
    local job = read_in(model, RUNNING .. model, id, 'running')
    if job and job.charged == '1' and job.attempt >= max_attempts then
      give_up(id, job)
      failed = failed + 1
    elseif job then
      -- It may have begun, and killed the worker before that was written.
      if job.begun ~= job.claim and not job.host then redis.call('HSET', JOB .. id, 'suspect', '1') end
      requeue(id, job, 'worker_lost')
      requeued = requeued + 1
    end
  end
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', ALIVE .. model, '-inf', now, 'LIMIT', 0, DUE)) do
    redis.call('ZREM', ALIVE .. model, worker)
    redis.call('HDEL', WORKERS .. model, worker)
    -- A lease that it took later than it last beat lasts a moment longer; the end of its last claim tidies up.
    if redis.call('EXISTS', HELD .. worker) == 0 then
      redis.call('HDEL', BUSY .. model, worker)
      redis.call('HDEL', ALONE .. model, worker)
    end
  end
  redis.call('ZREMRANGEBYSCORE', BLOCKED .. model, '-inf', now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DELAYED .. model, '-inf', now, 'LIMIT', 0, DUE)) do
    local job = read_in(model, DELAYED .. model, id, 'queued')
    if job then
      redis.call('ZREM', DELAYED .. model, id)
      enter(id, job)
    end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', STARTING .. model, '-inf', now, 'LIMIT', 0, DUE)) do
    local job = read_in(model, STARTING .. model, id, 'queued')
    if job then
      expire(id, job)
      expired = expired + 1
    end
  end
  return requeued, failed, expired
end
