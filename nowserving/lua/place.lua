-- Shared, after the prelude: where those stand that wait.
-- A delivery (see report.lua) stands in its queue only while few others of its host stand there or are being sent, so
-- that thousands for a dead host keep none for a live one waiting. TURNS and LINE hold 'host id': a host's are together.

-- Takes a job out of every place where it could wait.
local function unqueue(id, job)
  redis.call('ZREM', job.queue, id)
  redis.call('ZREM', DELAYED .. job.model, id)
  redis.call('ZREM', STARTING .. job.model, id)
  if job.host then redis.call('ZREM', LINE, job.host .. ' ' .. id) end
end

-- How many of a host's deliveries may be in the queue or under way at once, as this one's record says. Only a host that
-- is known to answer soon gets more than one: else a few unknown ones that never do would hold a deliverer's threads.
local function most_of(host, id)
  if redis.call('EXISTS', BRISK .. host) == 0 then return 1 end
  return math.max(1, number(redis.call('HGET', JOB .. id, 'limit')) or 1)
end

local function count_turns(host) return redis.call('ZLEXCOUNT', TURNS, '[' .. host .. ' ', '(' .. host .. '!') end

-- Deliveries to hosts that are not known to answer go behind all others, and a deliverer keeps threads free of them:
-- that is what the lanes and tokens of deliveries are for.
local LANES = {known = {'normal', 1}, unknown = {'batch', 2}}
local function choose_lane(id, job)
  local lane, tokens = unpack(redis.call('EXISTS', BRISK .. job.host) == 1 and LANES.known or LANES.unknown)
  if job.lane == lane then return end
  redis.call('ZREM', job.queue, id)
  redis.call('HSET', JOB .. id, 'lane', lane, 'tokens', tokens)
  job.lane, job.queue = lane, QUEUE .. job.model .. (lane == 'batch' and BATCH or '')
end

-- A waiting job or delivery gets its place in the queue. A delivery whose host has its share there waits in the line.
local function enter(id, job)
  local turn = job.host and job.host .. ' ' .. id
  if turn and not redis.call('ZSCORE', TURNS, turn) then
    if count_turns(job.host) >= most_of(job.host, id) then
      redis.call('ZADD', LINE, 0, turn)
      return
    end
    redis.call('ZADD', TURNS, 0, turn)
  end
  if turn then choose_lane(id, job) end
  redis.call('ZADD', job.queue, job.sequence, id)
  wake(job.model)
end

-- Lets a host's next deliveries in, as many as may be.
local function let_in(host)
  local newer = 0
  for _ = 1, 100 do
    local turn = redis.call('ZRANGEBYLEX', LINE, '[' .. host .. ' ', '(' .. host .. '!', 'LIMIT', newer, 1)[1]
    local id = turn and string.sub(turn, #host + 2)
    if not id or count_turns(host) >= most_of(host, id) then return end
    local job, why = read(id)
    if why == NEWER then
      newer = newer + 1
    else
      redis.call('ZREM', LINE, turn)
      if job and job.status == 'queued' and job.host == host then enter(id, job) end
    end
  end
end

-- A delivery is under way no more: it has ended, or waits for its next attempt.
local function depart(id, job)
  redis.call('ZREM', TURNS, job.host .. ' ' .. id)
  let_in(job.host)
end

-- How many jobs go before a waiting one, and when it is due if it is delayed ('' if not).
local function stand(id, job)
  local rank, due = redis.call('ZRANK', job.queue, id), number(redis.call('ZSCORE', DELAYED .. job.model, id))
  local before = rank and job.lane ~= 'batch' and 0 or redis.call('ZCARD', QUEUE .. job.model)
  return tostring(before + (rank or redis.call('ZCARD', QUEUE .. job.model .. BATCH))), due and stamp(due) or ''
end
