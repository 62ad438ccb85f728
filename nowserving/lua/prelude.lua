-- Put before every script, after the key names of keys.py and guard.lua. ARGV[1] is always `now` (Unix seconds;
-- '' = Redis's TIME).
-- Keys are composed here: nowserving refuses cluster mode, the one thing that needs them declared.
local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local now = clock()

-- A full Redis (noeviction) judges a script by its first write. A write that can only free memory lets the rest
-- through, so that running jobs can finish. Every script that changes something but enqueue begins with it.
local function even_if_full() redis.call('HDEL', SEQUENCE .. ':none', '-') end

local function stamp(seconds) return string.format('%.6f', seconds) end

local FIELDS = {'v', 'id', 'model', 'status', 'lane', 'sequence', 'tokens', 'claim', 'worker', 'taken_at',
  'ran_seconds', 'retain_seconds', 'start_by', 'attempt', 'charged', 'begun', 'takes', 'generated', 'prompt_tokens',
  'finished_by', 'lease', 'suspect'}
local STATUSES = {queued = true, running = true, succeeded = true, failed = true, canceled = true, expired = true}
local GONE, NEWER = 'it has no record', 'its record is of a newer version'

-- The fields that decide; or nil and why: GONE, NEWER (then the job is left alone), or what is wrong with the record.
local function read(id)
  local reply = redis.pcall('HMGET', JOB .. id, unpack(FIELDS))
  if reply.err then return nil, 'its record is no hash' end
  local job = {}
  for i, name in ipairs(FIELDS) do
    if reply[i] then job[name] = reply[i] end
  end
  if not next(job) then return nil, GONE end
  job.v = number(job.v)
  if not job.v then return nil, 'its record has no readable v' end
  if job.v > VERSION then return nil, NEWER end
  if job.id ~= id or string.find(id, '[^%w_.:-]') then return nil, 'its record is of another id' end
  -- In digits alone: whoever takes the job reads them, too.
  if not job.tokens or string.find(job.tokens, '%D') then return nil, 'its record has no readable tokens' end
  for _, name in ipairs({'sequence', 'tokens', 'retain_seconds'}) do
    job[name] = number(job[name])
    if not job[name] or job[name] < 0 then return nil, 'its record has no readable ' .. name end
  end
  if job.sequence % 1 ~= 0 then return nil, 'its record has no readable sequence' end
  if job.start_by then
    job.start_by = number(job.start_by)
    if not job.start_by then return nil, 'its record has no readable start_by' end
  end
  if not job.model or not STATUSES[job.status] then return nil, 'its record has no readable model or status' end
  for _, name in ipairs({'attempt', 'takes', 'generated', 'ran_seconds', 'taken_at'}) do
    job[name] = number(job[name]) or 0
  end
  job.queue = QUEUE .. job.model .. (job.lane == 'batch' and BATCH or '')
  return job
end

local function emit(id, kind, ...)
  redis.call('XADD', EVENTS .. id, '*', 'type', kind, 'at', stamp(now), ...)
  redis.call('PUBLISH', EVENTS .. id, kind)
end

local function wake(model) redis.call('XADD', WAKE .. model, 'MAXLEN', 1, '*', 'look', '1') end

local function problem(code, message, retryable)
  return cjson.encode({code = code, message = message, retryable = retryable})
end

-- A member of a queue that is no job of ours is kept with its reason, and never looked at again.
local function set_aside(model, key, id, why)
  redis.call('ZREM', key, id)
  bury(model, id, why)
end

-- The job that stands in this place of deadlines, or nil: what does not belong here is taken out. A job of a newer version
-- is looked at again in a minute, so that many of them hide no other.
local function read_in(model, key, id, status)
  local job, why = read(id)
  if job and job.status == status and job.model == model then return job end
  if job then
    redis.call('ZREM', key, id)
  elseif why == NEWER then
    redis.call('ZADD', key, now + 60, id)
  else
    set_aside(model, key, id, why)
  end
end

-- Takes a job out of every place where it could wait.
local function unqueue(id, job)
  redis.call('ZREM', job.queue, id)
  redis.call('ZREM', DELAYED .. job.model, id)
  redis.call('ZREM', STARTING .. job.model, id)
end

-- How many jobs go before a waiting one, and when it is due if it is delayed ('' if not).
local function stand(id, job)
  local rank, due = redis.call('ZRANK', job.queue, id), number(redis.call('ZSCORE', DELAYED .. job.model, id))
  local before = rank and job.lane ~= 'batch' and 0 or redis.call('ZCARD', QUEUE .. job.model)
  return tostring(before + (rank or redis.call('ZCARD', QUEUE .. job.model .. BATCH))), due and stamp(due) or ''
end

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
  if job.charged == '1' then
    redis.call('HSET', JOB .. id, 'suspect', '1')
    redis.call('ZADD', DELAYED .. job.model, now + backoff(id, job), id)
  else
    redis.call('ZADD', job.queue, job.sequence, id)
  end
  if job.start_by then redis.call('ZADD', STARTING .. job.model, job.start_by, id) end
  emit(id, 'queued', 'cause', cause)
  wake(job.model)
end

-- A job's stream is told anew, in short, so long after its end; by then its live readers have read it.
local COLLAPSE_SECONDS = 30

-- From now on an ended job is kept for its retain_seconds.
local function keep(id, job)
  local retain = math.max(1, math.ceil(job.retain_seconds))
  redis.call('ZADD', FINISHED, now + retain, id)
  redis.call('EXPIRE', JOB .. id, retain)
  redis.call('EXPIRE', EVENTS .. id, retain)
  return retain
end

-- The one way into a terminal status, with 'output' or 'error' and its JSON, or both.
local function close(id, job, status, ...)
  redis.call('HSET', JOB .. id, 'status', status, 'finished_at', stamp(now), ...)
  emit(id, status, ...)
  redis.call('PUBLISH', ENDED, id)
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

-- What a stream's token events after its last `restarted` say in all: {ids, text, last = the last one's entry}.
local function made(entries)
  local ids, text, last = {}, {}, nil
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    if fields[2] == 'restarted' then
      ids, text, last = {}, {}, nil
    elseif fields[2] == 'token' then
      last = entry
      for i = 3, #fields, 2 do
        if fields[i] == 'ids' and fields[i + 1] ~= '' then
          ids[#ids + 1] = fields[i + 1]
        elseif fields[i] == 'text' then
          text[#text + 1] = fields[i + 1]
        end
      end
    end
  end
  return {ids = table.concat(ids, ','), text = table.concat(text), last = last}
end

-- The output, as JSON, of a job that was stopped: what its readers have seen.
local function made_until(id, job, finish_reason)
  return cjson.encode({
    text = made(redis.call('XRANGE', EVENTS .. id, '-', '+')).text,
    finish_reason = finish_reason,
    usage = {prompt_tokens = number(job.prompt_tokens) or 0, completion_tokens = job.generated},
  })
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
      if job.begun ~= job.claim then redis.call('HSET', JOB .. id, 'suspect', '1') end
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
      redis.call('ZADD', job.queue, job.sequence, id)
      wake(model)
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
