-- Put new tokens on a job's event stream; the first of a claim refunds what the job was charged.
-- ARGV: now, id, claim, index of the first token, count (at least 1), ids (comma-separated), text
-- Answers: {'ok', generated} · {'lost'} · {'gap', generated}
-- Promises: each index is on the stream once and in order, however often it is sent; nothing for a lost claim.
even_if_full()
local id, first, count = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local job = read(id)
if not job or job.claim ~= ARGV[3] then return {'lost'} end
if first + count <= job.generated then return {'ok', tostring(job.generated)} end
if first ~= job.generated then return {'gap', tostring(job.generated)} end
stream(id, job, first, count, ARGV[6], ARGV[7])
return {'ok', tostring(first + count)}
