-- How often what was mended, by reconcile or by guard.lua.
-- ARGV: now
-- Answers: {kind, count, …}
-- Promises: changes nothing.
local stands, answer = redis.call('HGETALL', MENDED), {}
for i = 1, #stands, 2 do
  local count = number(stands[i + 1])
  if count then
    answer[#answer + 1] = printable(stands[i])
    answer[#answer + 1] = string.format('%.0f', count)
  end
end
return answer
