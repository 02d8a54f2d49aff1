-- Applies a commit atomically: its writes, its outcomes, and how far the log is applied with them.
-- Drops applied jobs from a log on the same server, and returns those that follow.
--
-- KEYS  1 state, 2 index, 3 deadlines, 4 changes, 5 letters, 6 letter index, 7 queue, 8 jobs,
--       9 outcomes of the queue, 10 record of the sender, then the entries
-- ARGV  1 skew (ms), 2 channel, 3 partition, 4 the sender's number, or '' for a commit that
--       advances, which takes effect once anyway, 5 queue that it advances or '', 6 from, 7 to,
--       8 whether the jobs between are lost (1, 0), 9 whether the log is on this server (1, 0),
--       10 the latest version, if all of its writes are sets without a deadline or a check,
--       otherwise '';
--       11 how long the answer is remembered (ms), 12 changes kept, 13 entries, 14 checks,
--       15 writes, 16 outcomes, 17 how many of them are dead letters, 18 most dead letters, 19 most
--       bytes of them, 20 most outcomes, 21 most bytes of them, 22 their age (ms), 23 jobs and
--       24 bytes of the log after which to stop (no jobs: nothing is returned);
--       for each outcome: position, kind (s succeeded, f failed, d dead), text, first write,
--       writes, letter;
--       with the latest version: for each entry: its key, its text; for each: '0', its name; for
--       each write: 's' and version, name;
--       without: for each entry its name; for each check: entry, kind (a absent, p present,
--       v version, o one of, n none of, m present with none of, * any), version, or several with
--       commas around each;
--       for each write: entry, kind (s set, t set for a time, d delete), deadline (s: ms, 0 never;
--       t: ms from now), value
-- Says  {'ok', {first version, a digit for each write: whether the key existed (with the latest
--       version: for each entry)}, entries of the log}; or, with nothing changed:
--       {'conflict', {check from 0, version or ''}}, {'version', {the latest one}}, {'queue', {the
--       active one}}, {'stale', {position}}, {'unset', {}}, {'full', {'count' or 'bytes'}}
--
-- Redis does not roll back when a command fails, so everything, types too, is checked before the
-- first write.
local state, index, deadlines, changes, letters, letter_index, log, jobs, outcomes, record = unpack(KEYS, 1, 10)
local skew, channel, partition, number, queue, from, to, is_lost, is_own, latest = unpack(ARGV, 1, 10)
local numbers = {}
for place = 11, 24 do
  numbers[place - 10] = tonumber(ARGV[place])
end
local kept, changes_kept, entries, checks, writes, verdicts, letters_new, letters_max, letter_bytes_max,
  outcomes_max, outcome_bytes_max, retention, most, room = unpack(numbers)
local first_verdict, body = 25, 25 + 6 * verdicts

local answered = number ~= '' and answer_before(record, number, kept)
if answered then
  return answered
end
local function answer(word, words, found)
  local all = { word, words, found or {} }
  return number == '' and all or remember(record, number, all, kept)
end

local known = look('HMGET', state, 'version', 'time', 'run', 'raised from', 'raised to', 'queue',
  'applied:' .. queue, 'kept:' .. queue, 'letters')
local now, time = store_time(skew, known[2])
local refused = refusal(known[3], known[2], now)
if refused then
  return refused
end
local before, letter_bytes = known[1] or '0', tonumber(known[9] or '0')

-- Evaluates the checks. Returns the version of each entry, and whether there is one, expired or
-- not; then the check that does not hold.
local function judge()
  local current, there, next = {}, {}, body + entries
  for first = 1, entries, 2000 do
    local last = math.min(first + 1999, entries)
    local texts = redis.call('MGET', unpack(KEYS, 10 + first, 10 + last))
    for entry = first, last do
      current[entry], there[entry] = live_version(texts[entry - first + 1], now)
    end
  end
  for check = 1, checks do
    local entry, kind, wanted = tonumber(ARGV[next]), ARGV[next + 1], ARGV[next + 2]
    local found = current[entry]
    local listed = found and string.find(wanted, ',' .. found .. ',', 1, true)
    if not (kind == '*' or (kind == 'a' and not found) or (kind == 'p' and found) or (kind == 'v' and found == wanted)
      or (kind == 'o' and listed) or (kind == 'n' and not listed) or (kind == 'm' and found and not listed)) then
      return current, there, { int(check - 1), found or '' }
    end
    next = next + 3
  end
  return current, there
end

-- Returns true if the log, on this server, has accepted the job at `to`, or has come that far where
-- no job is applied. A worker may hold jobs from a server that had more than this one: their
-- idempotency keys are lost with them, and so are the numbers beyond the log's end, which later jobs
-- may not have passed.
local function is_accepted()
  local major = parts(to)
  local last = look('HMGET', log, 'major', 'minor')
  if is_lost == '1' or tonumber(last[1]) == major then
    return not is_before((last[1] or '0') .. '-' .. (last[2] or '0'), to)
  end
  local held = look('XRANGE', jobs, to, '+', 'COUNT', 1)[1]
  return held and parts(held[1]) == major
end

local current, there, conflict
if latest == '' then
  current, there, conflict = judge()
end
if conflict then
  return answer('conflict', conflict)
end
if queue ~= '' then
  local active, applied = known[6], known[7] or '0-0'
  if active and active ~= queue then
    return answer('queue', { active })
  elseif applied ~= from then
    return answer('stale', { applied })
  elseif not active then
    return answer('unset', {})
  elseif is_own == '1' and not is_accepted() then
    return answer('stale', { applied })
  elseif letters_new > 0 and look('HLEN', letters) + letters_new > letters_max then
    return answer('full', { 'count' })
  elseif letters_new > 0 and letter_bytes >= letter_bytes_max then
    -- The last letter may pass the limit, so that none is too large for an empty table.
    return answer('full', { 'bytes' })
  end
  look('HLEN', letters)
  look('XLEN', outcomes)
  look('ZCARD', letter_index)
  look('XLEN', jobs)
end
if latest ~= '' and latest ~= before then
  return answer('version', { before })
end
look('ZCARD', index)
look('XLEN', changes)
local has_deadlines = look('ZCARD', deadlines) > 0
local first_version = int(tonumber(before) + (writes > 0 and 1 or 0))
local version = int(tonumber(before) + writes)

-- Applies writes of all kinds. Returns a digit for each write, and the changes for watchers.
local function write(current, there)
  local existed, final, announced = {}, {}, {}
  local next, given = body + entries + 3 * checks, tonumber(before)
  for number = 1, writes do
    local entry, kind, deadline, value = tonumber(ARGV[next]), ARGV[next + 1], ARGV[next + 2], ARGV[next + 3]
    local name = ARGV[body + entry - 1]
    next, given = next + 4, given + 1
    if kind == 't' then
      kind, deadline = 's', int(now + tonumber(deadline))
    end
    existed[number] = current[entry] and '1' or '0'
    if kind == 's' and (deadline == '0' or tonumber(deadline) > now) then
      current[entry], there[entry] = int(given), true
      final[entry] = { int(given) .. ' ' .. deadline .. ' ' .. value, deadline }
      push(announced, 's' .. int(given), name)
    else
      if there[entry] then
        -- Watchers still see it: an entry that has expired but was not removed ends now.
        push(announced, ((kind == 'd' and current[entry]) and 'd' or 'x') .. int(given), name)
      end
      current[entry], there[entry], final[entry] = false, false, false
    end
  end
  local values, indexed, dated, removed, unindexed, undated = {}, {}, {}, {}, {}, {}
  for entry, outcome in pairs(final) do
    local name, key = ARGV[body + entry - 1], KEYS[10 + entry]
    if outcome then
      push(values, key, outcome[1])
      push(indexed, '0', name)
    else
      push(removed, key)
      push(unindexed, name)
    end
    if outcome and outcome[2] ~= '0' then
      push(dated, outcome[2], name)
    else
      push(undated, name)
    end
  end
  call_in_parts('MSET', nil, values)
  call_in_parts('ZADD', index, indexed)
  call_in_parts('ZADD', deadlines, dated)
  call_in_parts('DEL', nil, removed)
  call_in_parts('ZREM', index, unindexed)
  call_in_parts('ZREM', deadlines, undated)
  return table.concat(existed), announced
end

-- Applies sets without a deadline, whose texts hold their versions. Returns a digit for each entry.
local function set()
  local members = body + 2 * entries
  local added = redis.call('ZADD', index, unpack(ARGV, members, members + 2 * entries - 1))
  local existed = string.rep(added == 0 and '1' or '0', entries)
  local has_expired = has_deadlines and #redis.call('ZRANGEBYSCORE', deadlines, '-inf', int(now), 'LIMIT', 0, 1) > 0
  if has_expired or (added > 0 and added < entries) then
    local digits = {}
    for entry = 1, entries do
      -- This must not fail, since a name has been added to the index.
      local text = redis.pcall('GETRANGE', KEYS[10 + entry], 0, 41)
      local deadline = type(text) == 'string' and string.match(text, '^%d+ (%d+) ')
      digits[entry] = deadline and (deadline == '0' or tonumber(deadline) > now) and '1' or '0'
    end
    existed = table.concat(digits)
  end
  redis.call('MSET', unpack(ARGV, body, members - 1))
  if has_deadlines then
    local names = {}
    for entry = 1, entries do
      names[entry] = ARGV[members + 2 * entry - 1]
    end
    redis.call('ZREM', deadlines, unpack(names))
  end
  local announced = members + 2 * entries
  redis.call('XADD', changes, version .. '-0', unpack(ARGV, announced, announced + 2 * writes - 1))
  return existed
end

-- All checks are done. From here on nothing may fail.
local existed, announced = nil, {}
if latest == '' then
  existed, announced = write(current, there)
else
  existed = set()
end
announce(changes, announced, tonumber(version), changes_kept, known[4], known[5])

local fields, following, carried = { 'version', version, 'time', time }, {}, {}
if queue ~= '' then
  local bytes, room_carried = tonumber(known[8] or '0'), CARRIED
  for place = first_verdict, body - 1, 6 do
    local position, kind, text, first, count, letter = unpack(ARGV, place, place + 5)
    first, count = tonumber(first), tonumber(count)
    local given, digits = int(tonumber(first_version) + first), string.sub(existed, first + 1, first + count)
    if kind == 'd' then
      redis.call('HSET', letters, letter, int(now) .. ' ' .. text)
      redis.call('ZADD', letter_index, 0, letter)
      text, letter_bytes = '', letter_bytes + #text
    elseif #text + #digits <= room_carried then
      push(carried, table.concat({ '', position, given, digits, text }, '\n'))
      room_carried = room_carried - #carried[#carried]
    end
    redis.call('XADD', outcomes, position, 'at', int(now), 'kind', kind, 'text', text, 'first', given, 'existed', digits)
    bytes = bytes + #text
  end
  prune(fields, queue, outcomes, now - retention, outcomes_max, bytes, outcome_bytes_max)
  push(fields, 'applied:' .. queue, to)
  if letters_new > 0 then
    push(fields, 'letters', int(letter_bytes))
  end
  if is_lost == '1' then
    local intervals = (redis.call('HGET', state, 'lost:' .. queue) or '') .. from .. ',' .. to .. ';'
    local _, count = string.gsub(intervals, ';', '')
    if count > 100 then
      -- Beyond that limit the two oldest become one.
      intervals = string.gsub(intervals, '^([^,]*),[^;]*;[^,]*,', '%1,', 1)
    end
    push(fields, 'lost:' .. queue, intervals)
  end
  if is_own == '1' then
    following = entries_behind(jobs, to, most, room)
    drop(log, jobs, to, following[1])
    partition = partition .. ' ' .. to .. table.concat(carried)
  end
end
redis.call('HSET', state, unpack(fields))
if writes > 0 or queue ~= '' then
  publish(channel, partition)
end
return answer('ok', { first_version, existed }, most > 0 and following or {})
