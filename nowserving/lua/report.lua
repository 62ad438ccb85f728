-- Shared, after place.lua: the deliveries that a job brings about, each in the step that changes the job.
-- A delivery has a record as a job has, and is taken, leased and lost as a job is: its model is WEBHOOKS.

-- What its receiver is told of the job, kept so that it outlives the job.
local SAID = {'v', 'id', 'model', 'status', 'lane', 'sequence', 'tokens', 'created_at', 'started_at', 'finished_at',
  'attempt', 'start_within_seconds', 'timeout_seconds', 'retain_seconds', 'retry_of', 'metadata', 'error', 'parameters',
  'output'}
local LARGEST_SAID = {output = 12000, parameters = 6000, metadata = 60000}
local EVENTS_TOLD = {'started', 'succeeded', 'failed', 'canceled', 'expired'}
local MOST_RECEIVERS = 8

-- A large output without its text, which is left to a link.
local function without_text(output)
  -- cjson reads NaN and writes none.
  local written, short = pcall(function()
    local value = cjson.decode(output)
    value.text = cjson.null
    return cjson.encode(value)
  end)
  return written and #short <= LARGEST_SAID.output and short or nil
end

local function tell(id)
  local said, values = {}, redis.call('HMGET', JOB .. id, unpack(SAID))
  for i, name in ipairs(SAID) do
    local value = values[i]
    if value and #value <= (LARGEST_SAID[name] or #value) then
      said[name] = value
    elseif value then
      said[name .. '_bytes'] = tostring(#value)
      if name == 'output' then said.output = without_text(value) end
    end
  end
  return cjson.encode(said)
end

local function wants(receiver, event)
  for _, wanted in ipairs(receiver.events) do
    if wanted == event then return true end
  end
end

local function receivers_of(id)
  local text = redis.call('HGET', JOB .. id, 'webhook')
  local read, receivers = pcall(cjson.decode, text or '[]')
  return read and type(receivers) == 'table' and receivers or {}
end

local function is_receiver(value)
  return type(value) == 'table' and type(value.url) == 'string' and type(value.host) == 'string'
    and type(value.events) == 'table' and not string.find(value.host, '%s') and value.host ~= ''
end

local function delivery_id(id, event, nth)
  return 'dlv_' .. string.gsub(id, '^job_', '') .. '_' .. event .. (nth > 1 and '_' .. nth or '')
end

-- Brings the deliveries of one event about; their ids are the event's, so that none comes about twice.
local function report(id, job, event)
  local said
  for i, receiver in ipairs(receivers_of(id)) do
    local delivery = delivery_id(id, event, i)
    local wanted = i <= MOST_RECEIVERS and is_receiver(receiver) and wants(receiver, 'job.' .. event)
    if wanted and redis.call('HSETNX', JOB .. id, 'told:' .. delivery, '1') == 1 then
      said = said or tell(id)
      -- Half a record, if any, is nobody's.
      if redis.call('EXISTS', JOB .. delivery) == 1 then redis.call('UNLINK', JOB .. delivery) end
      local sequence = next_sequence()
      redis.call('HSET', JOB .. delivery, 'v', VERSION, 'id', delivery, 'model', WEBHOOKS, 'status', 'queued',
        'lane', 'normal', 'sequence', sequence, 'tokens', 1, 'created_at', stamp(now), 'waits_since', stamp(now),
        'retain_seconds', job.retain_seconds, 'job', id, 'event', 'job.' .. event, 'said', said,
        'url', receiver.url, 'host', receiver.host, 'limit', number(receiver.limit) or 1)
      for field, value in pairs({receiver = receiver.name, secret = receiver.secret,
        traceparent = redis.call('HGET', JOB .. id, 'traceparent')}) do
        if type(value) == 'string' then redis.call('HSET', JOB .. delivery, field, value) end
      end
      redis.call('ZADD', DELIVERIES, sequence, delivery)
      enter(delivery, read(delivery))
    end
  end
end

-- A delivery as it is answered, {field, value, …}; nil if there is none of that id.
local TOLD = {'id', 'job', 'event', 'url', 'receiver', 'status', 'created_at', 'finished_at', 'tries', 'log'}
local function told(id)
  local values, fields = redis.pcall('HMGET', JOB .. id, unpack(TOLD)), {}
  if values.err or not values[1] then return nil end
  for i, name in ipairs(TOLD) do
    if values[i] then
      fields[#fields + 1] = name
      fields[#fields + 1] = values[i]
    end
  end
  local due = number(redis.call('ZSCORE', DELAYED .. WEBHOOKS, id))
  if due then
    fields[#fields + 1] = 'due'
    fields[#fields + 1] = stamp(due)
  end
  return fields
end

-- The kept deliveries of a job, which may itself be gone.
local function deliveries_of(id)
  local found = {}
  for _, event in ipairs(EVENTS_TOLD) do
    for nth = 1, MOST_RECEIVERS do found[#found + 1] = told(delivery_id(id, event, nth)) end
  end
  return found
end
