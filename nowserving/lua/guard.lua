-- Put before the prelude: what strangers leave in our keys must stop no script, and must not be met again and again:
-- it is set aside also in a script that promises to change nothing.
-- What is kept of it: so many entries of `dead` (MORE counts the rest), so many elements of a list, so many bytes of each.
local KEPT = {dead = 1000, elements = 100, bytes = 200}
local LARGEST, MORE = 2 ^ 52, '(more)'

-- In all that follows `redis.call` is this: a key of another type is set aside, and the command sent again.
local server, put_right = redis, nil
local redis = {pcall = server.pcall}
function redis.call(...)
  local reply = server.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  local why = tostring(reply.err)
  local uncountable = (...) == 'INCR' and (string.find(why, 'integer') or string.find(why, 'overflow'))
  if uncountable or string.find(why, 'WRONGTYPE') then put_right((select(2, ...))) end
  -- A command that fails changes nothing: any other error is met again, and raised in Redis's own form.
  return server.call(...)
end

-- A number one can count with; nil for all else, also for what Lua takes for one: nan, inf, 1e99.
local function number(text)
  local value = tonumber(text)
  return value and value > -LARGEST and value < LARGEST and value or nil
end

-- Text that every reader can decode, and not too much of it.
local function printable(bytes)
  return (string.gsub(string.sub(bytes, 1, KEPT.bytes), '[^\32-\126]', function(byte)
    return string.format('\\x%02x', string.byte(byte))
  end))
end

local function add(key, field, count)
  redis.call('HSET', key, field, (number(redis.call('HGET', key, field)) or 0) + count)
end

-- Counts something mended, for good and for this script's answer.
local mended = {}
local function note(kind, what)
  mended[#mended + 1] = kind
  mended[#mended + 1] = printable(what)
  add(MENDED, kind, 1)
end

-- Keeps what is no job of ours with the reason, or only counts it when so much is kept already.
local function bury(model, what, why)
  local key, field = DEAD .. model, printable(what)
  if redis.call('HLEN', key) < KEPT.dead or redis.call('HEXISTS', key, field) == 1 then
    redis.call('HSET', key, field, printable(why))
  else
    add(key, MORE, 1)
  end
end

-- Sets aside a key that holds something else than ours does: mostly a list, made by a Celery client without our transport.
function put_right(key)
  local kind, count, kept = redis.call('TYPE', key).ok, 1, {}
  if kind == 'list' then
    count, kept = redis.call('LLEN', key), redis.call('LRANGE', key, 0, KEPT.elements - 1)
  elseif kind == 'string' then
    kept = {redis.call('GETRANGE', key, 0, KEPT.bytes - 1)}
  else
    kept = {'a ' .. kind}
  end
  -- First, so that a full Redis lets the rest through.
  redis.call('UNLINK', key)
  local model = ''
  for _, prefix in ipairs({QUEUE, DELAYED, STARTING, RUNNING, BUSY, ALONE, BLOCKED, WORKERS, ALIVE, WAKE, DEAD, STATS}) do
    if string.sub(key, 1, #prefix) == prefix then model = string.sub(key, #prefix + 1) end
  end
  if string.sub(model, -#BATCH) == BATCH then model = string.sub(model, 1, -#BATCH - 1) end
  local at = redis.call('TIME')[1]
  for i, value in ipairs(kept) do
    bury(model, key .. ' ' .. at .. ' ' .. i, 'in a ' .. kind .. ' of that name: ' .. value)
  end
  if count > #kept then add(DEAD .. model, MORE, count - #kept) end
  note('wrong_type', key)
end
