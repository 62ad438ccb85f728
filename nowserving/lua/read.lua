-- Events of several jobs after those already seen, at most 500 a job.
-- ARGV: now, id, after ('0' = from the first), id, after, …
-- Answers: for each {{stream id, {field, value, …}}, …}
-- Promises: changes nothing.
local streams = {}
for i = 2, #ARGV, 2 do
  streams[#streams + 1] = redis.call('XRANGE', EVENTS .. ARGV[i], '(' .. ARGV[i + 1], '+', 'COUNT', 500)
end
return streams
