-- Tell a job's readers how much of its prompt is read, before there is a token to tell them.
-- ARGV: now, id, claim, done, total (tokens)
-- Answers: {'ok'} · {'lost'}
-- Promises: it stands between `started` and the first new token, and grows, however often or late it is sent; nothing for
-- a lost claim.
even_if_full()
local id, done = ARGV[2], tonumber(ARGV[4])
local job = read(id)
if not job or job.claim ~= ARGV[3] then return {'lost'} end
local last = redis.call('XREVRANGE', EVENTS .. id, '+', '-', 'COUNT', 1)[1]
local fields = last and last[2] or {}
local told = (fields[2] == 'started' or fields[2] == 'restarted') and -1
if fields[2] == 'progress' then
  for i = 3, #fields, 2 do
    if fields[i] == 'done' then told = number(fields[i + 1]) end
  end
end
if told and done > told then emit(id, 'progress', 'stage', 'prefill', 'done', done, 'total', ARGV[5]) end
return {'ok'}
