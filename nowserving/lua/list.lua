-- Kept jobs, newest first.
-- ARGV: now, before (a sequence, '' = from the newest), limit, status ('' = any), model ('' = any)
-- Answers: {cursor ('' at the end), {field, value, …}, …}
-- Promises: changes nothing; looks at 2,000 jobs at most a call, so a page may be short and still have a cursor.
local cursor, limit, jobs = ARGV[2] == '' and '+inf' or '(' .. ARGV[2], tonumber(ARGV[3]), {''}
for _ = 1, 20 do
  local page = redis.call('ZREVRANGEBYSCORE', JOBS, cursor, '-inf', 'WITHSCORES', 'LIMIT', 0, 100)
  if #page == 0 then return jobs end
  for i = 1, #page, 2 do
    cursor = '(' .. page[i + 1]
    local seen = redis.pcall('HMGET', JOB .. page[i], 'status', 'model')
    if seen[1] and (ARGV[4] == '' or ARGV[4] == seen[1]) and (ARGV[5] == '' or ARGV[5] == seen[2]) then
      jobs[#jobs + 1] = redis.call('HGETALL', JOB .. page[i])
      if #jobs > limit then
        jobs[1] = page[i + 1]
        return jobs
      end
    end
  end
end
jobs[1] = string.sub(cursor, 2)
return jobs
