-- Opens a partition to a run of its server that it was not changed by before: whatever an earlier one gave out, and may have lost, is
-- not given out again. Versions go on behind a gap, and jobs are numbered anew under a higher major number.
--
-- KEYS  1 state, 2 queue
-- ARGV  1 major number of a job
-- Says  the last minor number under that major one, '' if it is still in use or long gone
local state, queue = KEYS[1], KEYS[2]
local known = redis.call('HMGET', state, 'run', 'version')
local log = redis.call('HMGET', queue, 'run', 'major', 'minor')
if known[1] ~= RUN then
  local fields = { 'run', RUN }
  if known[2] then
    local raised = int(tonumber(known[2]) + 4294967296)
    fields = { 'run', RUN, 'version', raised, 'raised from', known[2], 'raised to', raised }
  end
  redis.call('HSET', state, unpack(fields))
end
if log[1] ~= RUN then
  local fields = { 'run', RUN }
  if log[2] then
    fields = { 'run', RUN, 'ended:' .. log[2], log[3] or '0', 'major', int(tonumber(log[2]) + 1), 'minor', '0' }
    redis.call('HDEL', queue, 'ended:' .. int(tonumber(log[2]) - 100))
  end
  redis.call('HSET', queue, unpack(fields))
end
return redis.call('HGET', queue, 'ended:' .. ARGV[1]) or ''
