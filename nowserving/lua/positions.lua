-- Where several waiting jobs stand.
-- ARGV: now, id, …
-- Answers: for each {} (it does not wait) · {position, delayed until or ''}
-- Promises: changes nothing; all figures are of one instant.
local positions = {}
for i = 2, #ARGV do
  local job = read(ARGV[i])
  positions[i - 1] = job and job.status == 'queued' and {stand(ARGV[i], job)} or {}
end
return positions
