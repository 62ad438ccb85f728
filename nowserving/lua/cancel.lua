-- End a job that has not ended, at once: its worker learns of it with its next write or renew.
-- ARGV: now, id
-- Answers: {'canceled'} (also if it was already) · {'finished', status} · {'unknown'} · {'unreadable', why}
-- Promises: decides the race with finish; depth and slots are right at once.
even_if_full()
local id = ARGV[2]
local job, why = read(id)
if not job then return why == GONE and {'unknown'} or {'unreadable', why} end
if job.status == 'queued' then
  unqueue(id, job)
elseif job.status == 'running' then
  unclaim(id, job)
elseif job.status == 'canceled' then
  return {'canceled'}
else
  return {'finished', job.status}
end
close(id, job, 'canceled', 'output', made_until(id, job, 'canceled'))
wake(job.model)
return {'canceled'}
