-- The slow check that all keys agree: a queued job stands in one place, a running one under a lease, an ended one will be
-- forgotten, and nothing else stands in those places. What does not agree is mended, counted in MENDED, and told.
-- ARGV: now, who, hold ms ('0' = ask nobody), cursor ('' = begin a round), limit, model, …
-- Answers: {'other'} (another process is at it) · {cursor ('' = the round is over), looked at, {kind, of what, …}}
-- Promises: finds nothing in a healthy system; each page is atomic and of about `limit` entries; no job is ended by it.
even_if_full()
local who, hold, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
if hold > 0 then
  local holder = redis.call('GET', RECONCILER)
  local left = redis.call('PTTL', RECONCILER)
  -- One that lasts longer than a hold is of a clock that has been put back.
  if holder and holder ~= who and left > 0 and left <= hold then return {'other'} end
  redis.call('SET', RECONCILER, who, 'PX', hold)
end
-- No lease and no backoff is as long: such a deadline is of a clock that has been put back. A webhook may wait a week.
local FAR, LONGEST_LEASE, FAR_ATTEMPT = now + 1200, 600, now + 8 * 86400
local catalog, last = {}, number(redis.call('GET', SEQUENCE)) or 0

local function list_of(job) return job.host and DELIVERIES or JOBS end

-- A delivery in the queue or under way has a turn; one that waits for a turn stands nowhere else. True if it does wait.
local function check_turn(id, job, placed, due)
  local turn = job.host .. ' ' .. id
  local lined = redis.call('ZSCORE', LINE, turn)
  if lined and (placed or due) then
    redis.call('ZREM', LINE, turn)
    note('queued_twice', id)
  end
  if placed and not redis.call('ZSCORE', TURNS, turn) then
    redis.call('ZADD', TURNS, 0, turn)
    note('no_turn', id)
  end
  return lined and not placed and not due
end

local function check_queued(id, job)
  local place, due = redis.call('ZSCORE', job.queue, id), redis.call('ZSCORE', DELAYED .. job.model, id)
  if job.host and check_turn(id, job, place, due) then return end
  if place and due then
    redis.call('ZREM', DELAYED .. job.model, id)
    note('queued_twice', id)
  elseif due and not (number(due) and number(due) < (job.host and FAR_ATTEMPT or FAR)) then
    redis.call('ZADD', DELAYED .. job.model, now, id)
    note('delayed_for_ever', id)
  end
  if not due and number(place) ~= job.sequence then
    enter(id, job)
    note(place and 'queued_out_of_order' or 'queued_nowhere', id)
  end
  if job.start_by and not redis.call('ZSCORE', STARTING .. job.model, id) then
    redis.call('ZADD', STARTING .. job.model, job.start_by, id)
    note('never_expiring', id)
  end
end

local function check_running(id, job)
  if job.host then check_turn(id, job, true) end
  local deadline = number(redis.call('ZSCORE', RUNNING .. job.model, id))
  if not deadline or not job.claim or redis.call('HGET', HELD .. (job.worker or ''), job.claim) ~= id then
    refund(id, job)
    requeue(id, job, 'reconciled')
    note('running_unleased', id)
  elseif deadline > FAR then
    redis.call('ZADD', RUNNING .. job.model, now + LONGEST_LEASE, id)
    note('leased_for_ever', id)
  end
end

local function check_ended(id, job)
  if redis.call('TTL', JOB .. id) < 0 or not redis.call('ZSCORE', FINISHED, id) then
    keep(id, job)
    note('ended_kept', id)
  end
end

-- All that must hold of a job, but for what stands where it should not: that is found there.
local function check(id, job, listed)
  if number(listed) ~= job.sequence then
    redis.call('ZADD', list_of(job), job.sequence, id)
    note('unlisted', id)
  elseif job.sequence > last then
    last = job.sequence
    redis.call('SET', SEQUENCE, last)
    note('sequence', id)
  end
  if job.claim and job.status ~= 'running' then
    unclaim(id, job)
    note('claimed', id)
  end
  if job.status == 'queued' then
    check_queued(id, job)
  elseif job.status == 'running' then
    check_running(id, job)
  else
    check_ended(id, job)
    return
  end
  if redis.call('ZREM', FINISHED, id) == 1 then note('not_ended', id) end
end

local function visit_listed(id, listed)
  local job, why = read(id)
  if job then
    check(id, job, listed)
  elseif why == GONE then
    -- One that has ended is forgotten by reap.
    if not redis.call('ZSCORE', FINISHED, id) then
      redis.call('ZREM', JOBS, id)
      redis.call('ZREM', DELIVERIES, id)
      note('gone', id)
    end
  elseif why ~= NEWER then
    -- It stays listed, so that a person who mends the record gets the job back; it is told once.
    local model = redis.pcall('HGET', JOB .. id, 'model')
    model = catalog[model] and model or ''
    if redis.call('HEXISTS', DEAD .. model, printable(id)) == 0 and redis.call('HLEN', DEAD .. model) < KEPT.dead then
      bury(model, id, why)
      note('unreadable', id)
    end
  end
end

-- Members of a place: `belongs` says of a readable job whether it does.
local function visit_place(model, key, name, belongs)
  return function(id)
    local job, why = read(id)
    if job and belongs(job) then
      if not redis.call('ZSCORE', list_of(job), id) then check(id, job) end
    elseif job then
      redis.call('ZREM', key, id)
      note('not_' .. name, id)
      check(id, job, redis.call('ZSCORE', list_of(job), id))
    elseif why ~= NEWER then
      set_aside(model, key, id, why)
      note('set_aside', id)
    end
  end
end

-- Whose turn it is, or will be, is as its record says; nobody waits for a host that has free turns.
local function visit_turn(key, name, belongs)
  return function(turn)
    local host, id = string.match(turn, '^(%S+) (%S+)$')
    local job, why = read(id or '')
    if why == NEWER then return end
    if not (job and job.host == host and belongs(id, job)) then
      redis.call('ZREM', key, turn)
      note('not_' .. name, turn)
      if job then check(id, job, redis.call('ZSCORE', list_of(job), id)) end
    end
    if host and redis.call('ZSCORE', LINE, turn) and count_turns(host) == 0 then note('line_held_up', host) end
    if host then let_in(host) end
  end
end

local function visit_alone(key)
  return function(worker, id)
    local job, why = read(id)
    if why ~= NEWER and not (job and job.status == 'running' and job.worker == worker and job.suspect) then
      redis.call('HDEL', key, worker)
      note('not_alone', worker)
    end
  end
end

-- What a worker holds is claimed by it, and counted right.
local function visit_worker(model)
  return function(worker)
    local held = redis.call('HGETALL', HELD .. worker)
    for i = 1, #held, 2 do
      local job = redis.pcall('HMGET', JOB .. held[i + 1], 'v', 'status', 'claim', 'worker')
      local newer = (number(job[1]) or 0) > VERSION
      if not newer and (job[2] ~= 'running' or job[3] ~= held[i] or job[4] ~= worker) then
        redis.call('HDEL', HELD .. worker, held[i])
        note('not_held', held[i + 1])
      end
    end
    local busy, jobs = redis.call('HGET', BUSY .. model, worker), redis.call('HLEN', HELD .. worker)
    if busy and jobs == 0 then
      redis.call('HDEL', BUSY .. model, worker)
    elseif busy and number(busy) ~= jobs then
      redis.call('HSET', BUSY .. model, worker, jobs)
    else
      return
    end
    note('busy', worker)
  end
end

-- A worker that is alive or blocked for ever is none.
local function visit_deadline(key, visit)
  return function(worker, deadline)
    if not number(deadline) or number(deadline) > FAR then
      redis.call('ZREM', key, worker)
      note('worker_for_ever', worker)
    end
    if visit then visit(worker) end
  end
end

local stages = {{'ZSCAN', JOBS, visit_listed}, {'ZSCAN', DELIVERIES, visit_listed}}
local function stage(scan, key, visit) stages[#stages + 1] = {scan, key, visit} end
stage('ZSCAN', LINE, visit_turn(LINE, 'in_line', function(id, job)
  return job.status == 'queued' and not redis.call('ZSCORE', job.queue, id)
    and not redis.call('ZSCORE', DELAYED .. job.model, id)
end))
stage('ZSCAN', TURNS, visit_turn(TURNS, 'its_turn', function(id, job)
  return job.status == 'running' or job.status == 'queued' and redis.call('ZSCORE', job.queue, id)
end))
for i = 6, #ARGV do
  local model = ARGV[i]
  catalog[model] = true
  for _, key in ipairs({QUEUE .. model, QUEUE .. model .. BATCH}) do
    stage('ZSCAN', key, visit_place(model, key, 'queued', function(job)
      return job.status == 'queued' and job.queue == key
    end))
  end
  local delayed, starting, running = DELAYED .. model, STARTING .. model, RUNNING .. model
  stage('ZSCAN', delayed, visit_place(model, delayed, 'delayed', function(job)
    return job.status == 'queued' and job.model == model
  end))
  stage('ZSCAN', starting, visit_place(model, starting, 'starting', function(job)
    return job.status == 'queued' and job.model == model and job.start_by
  end))
  stage('ZSCAN', running, visit_place(model, running, 'running', function(job)
    return job.status == 'running' and job.model == model
  end))
  stage('HSCAN', ALONE .. model, visit_alone(ALONE .. model))
  stage('HSCAN', BUSY .. model, visit_worker(model))
  stage('ZSCAN', ALIVE .. model, visit_deadline(ALIVE .. model, visit_worker(model)))
  stage('ZSCAN', BLOCKED .. model, visit_deadline(BLOCKED .. model))
  -- Looked at, so that they are put right if they are of another type.
  redis.call('XLEN', WAKE .. model)
  redis.call('HLEN', WORKERS .. model)
  redis.call('HLEN', STATS .. model)
end
if redis.call('PTTL', TICK) == -1 then
  redis.call('UNLINK', TICK)
  note('tick_for_ever', TICK)
end

local at, position = string.match(ARGV[4], '^(%d+) (%d+)$')
at, position = tonumber(at) or 1, position or '0'
local looked = 0
while stages[at] and looked < limit do
  local scan, key, visit = unpack(stages[at])
  local page = redis.call(scan, key, position, 'COUNT', limit - looked)
  position = page[1]
  for i = 1, #page[2], 2 do
    visit(page[2][i], page[2][i + 1])
    looked = looked + 1
  end
  -- Also an empty place costs something.
  looked = looked + 1
  if position == '0' then at = at + 1 end
end
return {stages[at] and at .. ' ' .. position or '', looked, mended}
