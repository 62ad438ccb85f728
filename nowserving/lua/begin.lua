-- The engine begins a job's prefill: charge it an attempt, and tell its readers.
-- ARGV: now, id, claim, prompt_tokens, anew ('1': the engine cannot resume, the text begins again from index 0)
-- Answers: {'ok', attempt} · {'lost'}
-- Promises: one charge a claim, however often it is sent; nothing for a claim that is not the job's.
even_if_full()
local id, claim = ARGV[2], ARGV[3]
local job = read(id)
if not job or job.claim ~= claim then return {'lost'} end
start(id, job, ARGV[4], ARGV[5] == '1')
return {'ok', tostring(job.attempt)}
