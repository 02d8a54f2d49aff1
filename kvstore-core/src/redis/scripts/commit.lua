-- Makes all of a commit true at once, or nothing of it.
--
-- KEYS  1 state, 2 index, 3 deadlines, 4 changes, 5 outcomes of the queue, 6 letters, 7 letter index, 8 record of the sender,
--       then the entries
-- ARGV  1 skew (ms), 2 entries, 3 checks, 4 writes, 5 changes kept, 6 channel, 7 partition, 8 whether it advances (1, 0),
--       9 its number or '' (one that advances is made once anyway), 10 how long the answer is remembered (ms),
--       then for each entry its name; for each check: entry, kind (a absent, p present, v version), version;
--       for each write: entry, kind (s set, t set for a time, d delete), deadline (s: ms, 0 never; t: ms from now), value;
--       and if it advances: queue, from, to, lost (1, 0), most letters, most outcomes, their age (ms), number of outcomes,
--       and for each: position, kind (s succeeded, f failed, d dead), text, first write, writes, letter
-- Says  {'ok', first version, a digit for each write: whether the key existed}; nothing has happened after
--       {'conflict', check from 0, version or ''}, {'queue', the active one}, {'stale', position}, {'unset'}, {'full'}
--
-- Nothing is undone if a command fails, so everything is judged, types too, before the first write.
local state, index, deadlines, changes, outcomes, letters, letter_index, record =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local skew, entries, checks, writes, changes_kept, channel, partition, advances =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local number, kept = ARGV[9], ARGV[10]
local answered = number ~= '' and answer_before(record, number, kept)
if answered then
  return answered
end
local function answer(words)
  return number == '' and words or remember(record, number, words, kept)
end
local next = 11
local function take()
  next = next + 1
  return ARGV[next - 1]
end

local known = redis.call('HMGET', state, 'version', 'time', 'queue', 'run', 'raised from', 'raised to')
if known[4] ~= RUN then
  return another_run()
end
local version, now, active = tonumber(known[1] or '0'), store_time(skew, known[2]), known[3]
redis.call('ZCARD', index)
redis.call('ZCARD', deadlines)
redis.call('XLEN', changes)

local names, current, there = {}, {}, {}
for entry = 1, entries do
  names[entry] = take()
end
for first = 1, entries, 2000 do
  local last = math.min(first + 1999, entries)
  local texts = redis.call('MGET', unpack(KEYS, 8 + first, 8 + last))
  for entry = first, last do
    current[entry], there[entry] = live_version(texts[entry - first + 1], now)
  end
end

for check = 1, checks do
  local entry, kind, wanted = tonumber(take()), take(), take()
  local version = current[entry]
  local holds = kind == '*' or (kind == 'a' and not version) or (kind == 'p' and version) or (kind == 'v' and version == wanted)
  if not holds then
    return answer({ 'conflict', int(check - 1), version or '' })
  end
end

local first_write = next
next = next + 4 * writes
local queue, from, to, lost, letters_max, outcomes_max, retention, verdicts
local first_verdict, letters_new = next + 8, 0
if advances then
  queue, from, to, lost = take(), take(), take(), take() == '1'
  letters_max, outcomes_max, retention, verdicts = tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take())
  if active and active ~= queue then
    return { 'queue', active }
  end
  local applied = redis.call('HGET', state, 'applied:' .. queue) or '0-0'
  if applied ~= from then
    return { 'stale', applied }
  end
  if not active then
    return { 'unset' }
  end
  for verdict = 0, verdicts - 1 do
    if ARGV[first_verdict + 6 * verdict + 1] == 'd' then
      letters_new = letters_new + 1
    end
  end
  redis.call('XLEN', outcomes)
  redis.call('ZCARD', letter_index)
  if redis.call('HLEN', letters) + letters_new > letters_max and letters_new > 0 then
    return { 'full' }
  end
end

-- Everything is judged. From here on nothing may fail.
local first_version = version
if writes > 0 then
  first_version = version + 1
end
local existed, final, announced = {}, {}, {}
next = first_write
for write = 1, writes do
  local entry, kind, deadline, value = tonumber(take()), take(), take(), take()
  if kind == 't' then
    kind, deadline = 's', int(now + tonumber(deadline))
  end
  version = version + 1
  existed[write] = current[entry] and '1' or '0'
  if kind == 's' and (deadline == '0' or tonumber(deadline) > now) then
    current[entry], there[entry] = int(version), true
    final[entry] = { int(version) .. ' ' .. deadline .. ' ' .. value, deadline }
    announced[#announced + 1] = 's' .. int(version)
    announced[#announced + 1] = names[entry]
  else
    if there[entry] then
      -- Watchers still hold it: an entry that expired and was not removed yet ends now.
      announced[#announced + 1] = ((kind == 'd' and current[entry]) and 'd' or 'x') .. int(version)
      announced[#announced + 1] = names[entry]
    end
    current[entry], there[entry] = false, false
    final[entry] = false
  end
end

local values, indexed, dated, removed, unindexed, undated = {}, {}, {}, {}, {}, {}
for entry, outcome in pairs(final) do
  local name, key = names[entry], KEYS[8 + entry]
  if outcome then
    values[#values + 1] = key
    values[#values + 1] = outcome[1]
    indexed[#indexed + 1] = '0'
    indexed[#indexed + 1] = name
    if outcome[2] == '0' then
      undated[#undated + 1] = name
    else
      dated[#dated + 1] = outcome[2]
      dated[#dated + 1] = name
    end
  else
    removed[#removed + 1] = key
    unindexed[#unindexed + 1] = name
    undated[#undated + 1] = name
  end
end
call_in_parts('MSET', nil, values)
call_in_parts('ZADD', index, indexed)
call_in_parts('ZADD', deadlines, dated)
call_in_parts('DEL', nil, removed)
call_in_parts('ZREM', index, unindexed)
call_in_parts('ZREM', deadlines, undated)
announce(changes, announced, version, changes_kept, known[5], known[6])

local fields = { 'version', int(version), 'time', int(now) }
existed = table.concat(existed)
if advances then
  fields[#fields + 1] = 'applied:' .. queue
  fields[#fields + 1] = to
  next = first_verdict
  for _ = 1, verdicts do
    local position, kind, text, first, count, letter = take(), take(), take(), tonumber(take()), tonumber(take()), take()
    local bits = string.sub(existed, first + 1, first + count)
    redis.call('XADD', outcomes, position, 'at', int(now), 'kind', kind, 'text', kind == 'd' and '' or text,
      'first', int(first_version + first), 'existed', bits)
    if kind == 'd' then
      redis.call('HSET', letters, letter, int(now) .. ' ' .. text)
      redis.call('ZADD', letter_index, 0, letter)
    end
  end
  local pruned = prune(outcomes, now - retention, outcomes_max)
  if pruned then
    fields[#fields + 1] = 'pruned:' .. queue
    fields[#fields + 1] = pruned
  end
  if lost then
    local intervals = (redis.call('HGET', state, 'lost:' .. queue) or '') .. from .. ',' .. to .. ';'
    local _, count = string.gsub(intervals, ';', '')
    if count > 100 then
      -- Past that the two oldest become one.
      intervals = string.gsub(intervals, '^([^,]*),[^;]*;[^,]*,', '%1,', 1)
    end
    fields[#fields + 1] = 'lost:' .. queue
    fields[#fields + 1] = intervals
  end
end
redis.call('HSET', state, unpack(fields))
if #announced > 0 or advances then
  publish(channel, partition)
end
return answer({ 'ok', int(first_version), existed })
