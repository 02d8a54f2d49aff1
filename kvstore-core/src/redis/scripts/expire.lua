-- Removes entries whose deadline has passed, announces that, and drops outcomes that are too old.
-- Each deadline is checked again, since there may be a newer value by now.
--
-- KEYS  1 state, 2 index, 3 deadlines, 4 changes, 5 outcomes of the queue, then the entries
-- ARGV  1 skew (ms), 2 changes kept, 3 channel, 4 partition, 5 queue, 6 how long outcomes are kept
--       (ms), 7 most outcomes, 8 most bytes of them, then for each entry its name
-- Says  how many entries were removed
local state, index, deadlines, changes, outcomes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local known = look('HMGET', state, 'version', 'time', 'run', 'raised from', 'raised to', 'kept:' .. ARGV[5])
local now, time = store_time(ARGV[1], known[2])
local refused = refusal(known[3], known[2], now)
if refused then
  return refused
end
local version = tonumber(known[1] or '0')
look('ZCARD', index)
look('ZCARD', deadlines)
look('XLEN', changes)
local keys, names, announced = {}, {}, {}
for entry = 6, #KEYS do
  local version_now, there = live_version(look('GET', KEYS[entry]), now)
  if there and not version_now then
    version = version + 1
    push(keys, KEYS[entry])
    push(names, ARGV[entry + 3])
    push(announced, 'x' .. int(version), ARGV[entry + 3])
  end
end
local fields = { 'version', int(version), 'time', time }
prune(fields, ARGV[5], outcomes, look('XLEN', outcomes), now - tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(known[6] or '0'), tonumber(ARGV[8]))
redis.call('HSET', state, unpack(fields))
if #keys == 0 then
  return 0
end
call_in_parts('DEL', nil, keys)
call_in_parts('ZREM', index, names)
call_in_parts('ZREM', deadlines, names)
announce(changes, announced, version, ARGV[2], known[4], known[5])
publish(ARGV[3], ARGV[4])
return #keys
