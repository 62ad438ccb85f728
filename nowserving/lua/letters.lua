-- Kept deliveries, newest first.
-- ARGV: now, before (a sequence, '' = from the newest), limit, status ('' = any)
-- Answers: {cursor ('' at the end), {field, value, …}, …}
-- Promises: changes nothing; looks at 2,000 at most a call, so a page may be short and still have a cursor.
return page_of(DELIVERIES, ARGV[2], tonumber(ARGV[3]), function(id)
  return (ARGV[4] == '' or redis.pcall('HGET', JOB .. id, 'status') == ARGV[4]) and told(id)
end)
