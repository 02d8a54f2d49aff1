-- Applies a commit atomically: its writes, its outcomes, and how far the log is applied with them.
-- Drops applied jobs from a log on the same server, and returns those that follow.
--
-- KEYS  1 state, 2 index, 3 deadlines, 4 changes, 5 letters, 6 letter index, 7 queue, 8 jobs,
--       9 outcomes of the queue, 10 record of the sender, then the entries, those that are checked
--       first
-- ARGV  1 skew (ms), 2 channel, 3 partition, 4 the sender's number, or '' for a commit that takes
--       effect once anyway, 5 queue, 6 from, 7 to, both '' if it advances no queue, 8 whether the
--       jobs between are lost (1, 0), 9 whether it advances a log on this server (1, 0);
--       10 how long the answer is remembered (ms), 11 changes kept, 12 entries, 13 how many of them
--       are checked, 14 checks, 15 writes, 16 outcomes, 17 how many of them are dead letters,
--       18 most dead letters, 19 most bytes of them, 20 most outcomes, 21 most bytes of them,
--       22 their age (ms), 23 jobs and 24 bytes of the log after which to stop (no jobs: nothing is
--       returned);
--       for each outcome: position, kind (s succeeded, f failed, d dead), text, first write,
--       writes, letter;
--       for each entry its name;
--       for each check: entry, kind (a absent, o one of these versions, n none of them, m present
--       with none of them), versions with commas around each;
--       for each write: entry, kind (s set, t set for a time, d delete, x remove if it has expired),
--       deadline (s: ms, 0 never; t: ms from now), value
-- Says  {'ok', {first version, a digit for each write: whether the key existed (x: whether it had
--       expired)}, entries of the log}; or, with nothing changed: {'conflict', {check from 0, version or ''}}, {'queue', {the
--       active one}}, {'stale', {position}}, {'unset', {}}, {'full', {'count' or 'bytes'}}
--
-- Redis does not roll back when a command fails, so everything, types too, is checked before the
-- first write. Values are read only where a check needs their version: all else is in the index and
-- in the deadlines.
local state, index, deadlines, changes, letters, letter_index, log, jobs, outcomes, record = unpack(KEYS, 1, 10)
local skew, channel, partition, number, queue, from, to, is_lost, is_own = unpack(ARGV, 1, 9)
local numbers = {}
for place = 10, 24 do
  numbers[place - 9] = tonumber(ARGV[place])
end
local kept, changes_kept, entries, checked, checks, writes, verdicts, letters_new, letters_max, letter_bytes_max,
  outcomes_max, outcome_bytes_max, retention, most, room = unpack(numbers)
local names = 24 + 6 * verdicts
local first_check = names + entries + 1

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
local before, outcome_bytes, letter_bytes = tonumber(known[1] or '0'), tonumber(known[8] or '0'), tonumber(known[9] or '0')

local found = call_in_parts('MGET', nil, KEYS, 11, 10 + checked)
for check = 1, checks do
  local entry, kind, wanted = unpack(ARGV, first_check + 3 * (check - 1), first_check + 3 * check - 1)
  local version = live_version(found[tonumber(entry)], now)
  local is_listed = version and string.find(wanted, ',' .. version .. ',', 1, true)
  if not ((kind == 'a' and not version) or (kind == 'o' and is_listed) or (kind == 'n' and not is_listed)
    or (kind == 'm' and version and not is_listed)) then
    return answer('conflict', { int(check - 1), version or '' })
  end
end

-- Returns true if the log, on this server, whose last job is `last`, has accepted the job at `to`, or
-- has come that far where no job is applied. A worker may hold jobs from a server that had more than
-- this one: their idempotency keys are lost with them, and so are the numbers beyond the log's end,
-- which later jobs may not have passed.
local function is_accepted(last)
  local major = parts(to)
  if is_lost == '1' or parts(last) == major then
    return not is_before(last, to)
  end
  local held = look('XRANGE', jobs, to, '+', 'COUNT', 1)[1]
  return held and parts(held[1]) == major
end

local held, following = {}, {}
local advances, has_outcomes = from ~= '', verdicts > 0 or known[8]
if advances then
  local active, applied = known[6], known[7] or '0-0'
  if active and active ~= queue then
    return answer('queue', { active })
  elseif applied ~= from then
    return answer('stale', { applied })
  elseif not active then
    return answer('unset', {})
  end
  if is_own == '1' then
    held = look('HMGET', log, 'trimmed', 'jobs', 'bytes', 'major', 'minor')
    if not is_accepted((held[4] or '0') .. '-' .. (held[5] or '0')) then
      return answer('stale', { applied })
    end
    following = entries_behind(jobs, to, most, room)
  end
  if letters_new > 0 then
    look('ZCARD', letter_index)
    if look('HLEN', letters) + letters_new > letters_max then
      return answer('full', { 'count' })
    elseif letter_bytes >= letter_bytes_max then
      -- The last letter may pass the limit, so that none is too large for an empty table.
      return answer('full', { 'bytes' })
    end
  end
end
local outcome_count = has_outcomes and look('XLEN', outcomes)
local there, ends = {}, {}
if writes > 0 then
  look('XLEN', changes)
  look('ZCARD', index)
  -- Where all or none of the entries are there, their number tells, at a third of the cost.
  local count = entries <= 2000 and redis.call('EXISTS', unpack(KEYS, 11, 10 + entries))
  if count == entries then
    for entry = 1, entries do
      there[entry] = true
    end
  elseif count ~= 0 then
    there = call_in_parts('ZMSCORE', index, ARGV, names + 1, names + entries)
  end
  if look('ZCARD', deadlines) > 0 then
    ends = call_in_parts('ZMSCORE', deadlines, ARGV, names + 1, names + entries)
  end
end

-- All checks are done. From here on nothing may fail.
--
-- The new text of each entry, false if it is removed, and its deadline.
local texts, dates = {}, {}
local existed, announced, place = {}, {}, first_check + 3 * checks
for write = 1, writes do
  local entry, kind, deadline = tonumber(ARGV[place]), ARGV[place + 1], ARGV[place + 2]
  local version, text, change = int(before + write), texts[entry], nil
  local is_there = text or (text == nil and there[entry])
  local has_ended = text == nil and ends[entry] and tonumber(ends[entry]) <= now or false
  existed[write] = is_there and has_ended == (kind == 'x') and '1' or '0'
  if kind == 't' then
    kind, deadline = 's', int(now + tonumber(deadline))
  end
  if kind == 's' and (deadline == '0' or tonumber(deadline) > now) then
    texts[entry], dates[entry] = version .. ' ' .. deadline .. ' ' .. ARGV[place + 3], deadline ~= '0' and deadline or nil
    change = 's'
  elseif kind ~= 'x' or has_ended then
    texts[entry], dates[entry] = false, nil
    -- Watchers still see it: an entry that has expired but was not removed ends now.
    change = is_there and (kind == 'd' and not has_ended and 'd' or 'x')
  end
  if change then
    push(announced, change .. version, ARGV[names + entry])
  end
  place = place + 4
end
existed = table.concat(existed)
local set, indexed, dated, removed, unindexed, undated = {}, {}, {}, {}, {}, {}
for entry = 1, entries do
  local text, key, name = texts[entry], KEYS[10 + entry], ARGV[names + entry]
  if text then
    push(set, key, text)
    if not there[entry] then
      push(indexed, '0', name)
    end
    if dates[entry] then
      push(dated, dates[entry], name)
    end
  elseif text == false then
    push(removed, key)
    push(unindexed, name)
  end
  if ends[entry] and text ~= nil and not dates[entry] then
    push(undated, name)
  end
end
call_in_parts('MSET', nil, set)
call_in_parts('ZADD', index, indexed)
call_in_parts('ZADD', deadlines, dated)
call_in_parts('DEL', nil, removed)
call_in_parts('ZREM', index, unindexed)
call_in_parts('ZREM', deadlines, undated)
announce(changes, announced, before + writes, changes_kept, known[4], known[5])

local first_version, carried = int(before + math.min(writes, 1)), {}
local fields = { 'version', int(before + writes), 'time', time }
if has_outcomes then
  local room_carried = CARRIED
  for place = 25, names, 6 do
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
    outcome_bytes = outcome_bytes + #text
  end
  prune(fields, queue, outcomes, outcome_count + verdicts, now - retention, outcomes_max, outcome_bytes, outcome_bytes_max)
  push(fields, 'letters', int(letter_bytes))
end
if advances then
  push(fields, 'applied:' .. queue, to)
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
  drop(log, jobs, to, following[1], held)
  partition = partition .. ' ' .. to .. table.concat(carried)
end
redis.call('HSET', state, unpack(fields))
if writes > 0 or advances then
  publish(channel, partition)
end
return answer('ok', { first_version, existed }, most > 0 and following or {})
