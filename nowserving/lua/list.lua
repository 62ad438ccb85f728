-- Kept jobs, newest first.
-- ARGV: now, before (a sequence, '' = from the newest), limit, status ('' = any), model ('' = any)
-- Answers: {cursor ('' at the end), {field, value, …}, …}
-- Promises: changes nothing; looks at 2,000 jobs at most a call, so a page may be short and still have a cursor.
return page_of(JOBS, ARGV[2], tonumber(ARGV[3]), function(id)
  local seen = redis.pcall('HMGET', JOB .. id, 'status', 'model')
  return seen[1] and (ARGV[4] == '' or ARGV[4] == seen[1]) and (ARGV[5] == '' or ARGV[5] == seen[2])
    and redis.call('HGETALL', JOB .. id)
end)
