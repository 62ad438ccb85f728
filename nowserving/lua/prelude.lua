-- Of this and all that is shared each script gets what it uses (script.py), after the names of keys.py. ARGV[1] is always
-- `now` (Unix seconds; '' = Redis's TIME).
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
  'finished_by', 'lease', 'suspect', 'host'}
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
  -- A delivery is known by its id.
  if string.sub(id, 1, 4) ~= 'dlv_' then
    job.host = nil
  elseif not job.host or string.find(job.host, '%s') then
    return nil, 'its record has no readable host'
  end
  return job
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

-- The next number of the line. Should the counter be lost, it goes on after the last job or delivery that is kept.
local function next_sequence()
  local sequence = redis.call('INCR', SEQUENCE)
  if sequence > 1 and sequence < LARGEST then return sequence end
  sequence = 1
  for _, list in ipairs({JOBS, DELIVERIES}) do
    local last = redis.call('ZREVRANGEBYSCORE', list, LARGEST - 1, 0, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    sequence = math.max(sequence, math.floor(number(last) or 0) + 1)
  end
  redis.call('SET', SEQUENCE, sequence)
  return sequence
end

-- {cursor, what `show` makes of a member, …}: a page of a list of all that is kept, newest first. What it makes nothing
-- of is left out; it looks at 2,000 at most.
local function page_of(list, before, limit, show)
  local cursor, shown = before == '' and '+inf' or '(' .. before, {''}
  for _ = 1, 20 do
    local page = redis.call('ZREVRANGEBYSCORE', list, cursor, '-inf', 'WITHSCORES', 'LIMIT', 0, 100)
    if #page == 0 then return shown end
    for i = 1, #page, 2 do
      cursor = '(' .. page[i + 1]
      local fields = show(page[i])
      if fields then
        shown[#shown + 1] = fields
        if #shown > limit then
          shown[1] = page[i + 1]
          return shown
        end
      end
    end
  end
  shown[1] = string.sub(cursor, 2)
  return shown
end
