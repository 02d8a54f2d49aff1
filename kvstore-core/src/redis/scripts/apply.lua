-- Makes true at once what a worker commits most of the time: sets without a deadline, unconditionally, and how far the queue is applied
-- with them. The texts come with their versions in them, so this looks at none of them one by one.
--
-- KEYS  1 state, 2 index, 3 deadlines, 4 changes, 5 outcomes of the queue, then the entries
-- ARGV  1 skew (ms), 2 queue, 3 from, 4 to, 5 version before, 6 version after, 7 changes kept, 8 channel, 9 partition,
--       10 most outcomes, 11 their age (ms), 12 number of entries, 13 number of sets, 14 number of outcomes;
--       for each entry: itself, its last text; for each: '0', name; for each set: 's' and version, name;
--       for each outcome: position, kind (s succeeded, f failed), text, first write, writes
-- Says  {'ok', first version, a digit for each entry: whether it existed}; nothing has happened after
--       {'version', the latest one}, {'general'} (commit.lua can do it), {'queue', the active one}, {'stale', position}, {'unset'}
--
-- Nothing is undone if a command fails, so everything is judged, types too, before the first write.
local state, index, deadlines, changes, outcomes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local queue, from, to, before, after = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local entries, sets, verdicts = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local texts, members, announced = 15, 15 + 2 * entries, 15 + 4 * entries
local judged = announced + 2 * sets

local known = redis.call('HMGET', state, 'version', 'time', 'queue', 'applied:' .. queue, 'run', 'raised from', 'raised to')
if known[5] ~= RUN then
  return another_run()
end
local now, active, applied = store_time(ARGV[1], known[2]), known[3], known[4] or '0-0'
if active and active ~= queue then
  return { 'queue', active }
end
if applied ~= from then
  return { 'stale', applied }
end
if not active then
  return { 'unset' }
end
if (known[1] or '0') ~= before then
  return { 'version', known[1] or '0' }
end
redis.call('ZCARD', index)
redis.call('XLEN', changes)
local dated = redis.call('ZCARD', deadlines) > 0
if dated and #redis.call('ZRANGEBYSCORE', deadlines, '-inf', int(now), 'LIMIT', 0, 1) > 0 then
  -- An entry that has expired is still there, and would count as one that existed.
  return { 'general' }
end
local oldest = redis.call('XRANGE', outcomes, '-', '+', 'COUNT', 1)[1]
-- Leaves a margin behind what commit.lua drops, so that after one of its turns this script is enough
-- for many commits.
if oldest and (tonumber(oldest[2][2]) < now - tonumber(ARGV[11]) - 60000
    or redis.call('XLEN', outcomes) + verdicts > tonumber(ARGV[10]) + 1000) then
  return { 'general' }
end

-- Everything is judged. From here on nothing may fail.
local added = redis.call('ZADD', index, unpack(ARGV, members, members + 2 * entries - 1))
local existed
if added == 0 or added == entries then
  existed = string.rep(added == 0 and '1' or '0', entries)
else
  local digits = {}
  for entry = 1, entries do
    digits[entry] = redis.call('EXISTS', KEYS[5 + entry])
  end
  existed = table.concat(digits)
end
redis.call('MSET', unpack(ARGV, texts, texts + 2 * entries - 1))
if dated then
  local names = {}
  for entry = 1, entries do
    names[entry] = ARGV[members + 2 * entry - 1]
  end
  redis.call('ZREM', deadlines, unpack(names))
end
redis.call('XADD', changes, after .. '-0', unpack(ARGV, announced, announced + 2 * sets - 1))
trim(changes, tonumber(after), ARGV[7], known[6], known[7])
for verdict = 0, verdicts - 1 do
  local place = judged + 5 * verdict
  local first, count = tonumber(ARGV[place + 3]), tonumber(ARGV[place + 4])
  redis.call('XADD', outcomes, ARGV[place], 'at', int(now), 'kind', ARGV[place + 1], 'text', ARGV[place + 2],
    'first', int(tonumber(before) + 1 + first), 'existed', string.sub(existed, first + 1, first + count))
end
redis.call('HSET', state, 'version', after, 'time', int(now), 'applied:' .. queue, to)
publish(ARGV[8], ARGV[9])
return { 'ok', int(tonumber(before) + 1), existed }
