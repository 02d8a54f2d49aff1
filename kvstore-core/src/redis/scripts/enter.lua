-- Opens a partition, which may have been emptied, to a run of its server that has not changed it
-- before. No number that an earlier history gave out, and may have lost, is given out again.
-- Versions continue behind a gap, and jobs get a higher major number. Both start from the time in
-- microseconds, or a random distance ahead if the time is not past them (the clock was once wrong).
--
-- KEYS  1 state, 2 queue
-- ARGV  1 major number of a job, 2 a random number of at least 2^32, 3 skew (ms)
-- Says  the last minor number under that major one ('0' if it was never in use here), '' if it is
--       in use
local state, queue = KEYS[1], KEYS[2]
local known = redis.call('HMGET', state, 'run', 'version', 'raised to')
local log = redis.call('HMGET', queue, 'run', 'major', 'minor')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2]) + 1000 * tonumber(ARGV[3])
local function behind(last)
  last = tonumber(last or '0')
  return int(now > last and now or last + tonumber(ARGV[2]))
end
if known[1] ~= RUN then
  local raised = behind(known[2])
  redis.call('HSET', state, 'run', RUN, 'version', raised,
    'raised before', known[3] or '0', 'raised from', known[2] or '0', 'raised to', raised)
end
if log[1] ~= RUN then
  local major = behind(log[2])
  local fields = { 'run', RUN, 'major', major, 'minor', '0' }
  if log[2] then
    push(fields, 'ended:' .. log[2], log[3] or '0')
    push(fields, 'before:' .. major, log[2])
    -- The ends of the last hundred numberings are kept.
    local oldest = log[2]
    for _ = 1, 100 do
      oldest = oldest and redis.call('HGET', queue, 'before:' .. oldest)
    end
    if oldest then
      redis.call('HDEL', queue, 'ended:' .. oldest, 'before:' .. oldest)
    end
  end
  redis.call('HSET', queue, unpack(fields))
end
if redis.call('HGET', queue, 'major') == ARGV[1] then
  return ''
end
return redis.call('HGET', queue, 'ended:' .. ARGV[1]) or '0'
