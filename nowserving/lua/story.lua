-- Shared, after report.lua: what a job's readers are told, and what they have been told.
local function emit(id, kind, ...)
  redis.call('XADD', EVENTS .. id, '*', 'type', kind, 'at', stamp(now), ...)
  redis.call('PUBLISH', EVENTS .. id, kind)
end

-- What a stream's token events after its last `restarted` say in all: {ids, text, last = the last one's entry}.
local function made(entries)
  local ids, text, last = {}, {}, nil
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    if fields[2] == 'restarted' then
      ids, text, last = {}, {}, nil
    elseif fields[2] == 'token' then
      last = entry
      for i = 3, #fields, 2 do
        if fields[i] == 'ids' and fields[i + 1] ~= '' then
          ids[#ids + 1] = fields[i + 1]
        elseif fields[i] == 'text' then
          text[#text + 1] = fields[i + 1]
        end
      end
    end
  end
  return {ids = table.concat(ids, ','), text = table.concat(text), last = last}
end

-- The output, as JSON, of a job that was stopped: what its readers have seen.
local function made_until(id, job, finish_reason)
  return cjson.encode({
    text = made(redis.call('XRANGE', EVENTS .. id, '-', '+')).text,
    finish_reason = finish_reason,
    usage = {prompt_tokens = number(job.prompt_tokens) or 0, completion_tokens = job.generated},
  })
end
