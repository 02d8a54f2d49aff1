-- Precedes every script that gives out numbers, after shared.lua. The line before both defines RUN:
-- the run of the server that the script is bound to (run/mod.rs).

-- Calls `command key …` with the values of `list` from `first` to `last`, or all, in parts: unpack
-- takes no more than 7,999 values. The size of a part is even, so that pairs stay together. Returns
-- what it answers for each value, if it does.
local function call_in_parts(command, key, list, first, last)
  first, last = first or 1, last or #list
  local answers = {}
  for from = first, last, 2000 do
    local to, answer = math.min(from + 1999, last), nil
    if key then
      answer = look(command, key, unpack(list, from, to))
    else
      answer = redis.call(command, unpack(list, from, to))
    end
    for place, each in ipairs(type(answer) == 'table' and answer or {}) do
      answers[from - first + place] = each
    end
  end
  return answers
end

-- Returns the error for a change that this run may not make, nil if it may. `run` made the last
-- change to the partition, at `time`; if that is another one, enter.lua opens the partition to this
-- one. A server that becomes a replica keeps its scripts and takes another server's data; as a
-- primary again it has another history. That takes longer than 100 ms, so changes in quick
-- succession need not ask for the history.
local function refusal(run, time, now)
  local since, history = now - tonumber(string.match(time or '0', '^%d+')), string.match(RUN, '%-(.+)')
  if run == RUN and since > 0 and since < 100 then
    return nil
  elseif history and not string.find(redis.call('INFO', 'replication'), 'master_replid:' .. history, 1, true) then
    return redis.error_reply('NOSCRIPT the server was a replica meanwhile')
  elseif run ~= RUN then
    return redis.error_reply('ENTER the partition was changed by another run of the server')
  end
end

-- Records changes for watchers: a list of kind and version, key, kind and version, key … . An
-- entry's id is its last version. The latest `kept` versions stay; a raise (enter.lua) has left a gap
-- in them.
local function announce(stream, changes, latest, kept, from, to)
  local oldest = latest - tonumber(kept) + 1
  if to and oldest <= tonumber(to) then
    oldest = oldest - tonumber(to) + tonumber(from)
  end
  oldest = int(math.max(oldest, 0))
  for first = 1, #changes, 2000 do
    local last = math.min(first + 1999, #changes)
    local version = string.sub(changes[last - 1], 2)
    redis.call('XADD', stream, 'MINID', '=', oldest, version .. '-0', unpack(changes, first, last))
  end
end

-- Returns the answer to a change that was made before, false for a new one. `record` holds the last
-- number of its sender, with the answer. A smaller number is that of a copy whose answer is no
-- longer awaited. The function writes, so that a wait for replicas covers the change, too.
local function answer_before(record, number, kept)
  local text = redis.call('GET', record)
  local stop = text and string.find(text, ' ', 1, true)
  local last = stop and tonumber(string.sub(text, 1, stop - 1))
  if not last or last < tonumber(number) then
    return false
  end
  redis.call('PEXPIRE', record, kept)
  return last > tonumber(number) and { 'passed' } or cmsgpack.unpack(string.sub(text, stop + 1))
end

-- Remembers `answer` for `kept` ms, and returns it.
local function remember(record, number, answer, kept)
  redis.call('SET', record, number .. ' ' .. cmsgpack.pack(answer), 'PX', kept)
  return answer
end

-- Drops outcomes from before `since`, and the oldest ones while there are more than `most`, or more
-- bytes of them than `bytes_max`, a thousand at a time. There are `length` of them, with `bytes`.
-- Adds the resulting changes of the state to `fields`.
local function prune(fields, queue, outcomes, length, since, most, bytes, bytes_max)
  local pruned, next = nil, 1
  for _ = 1, 11 do
    local dropped = 0
    for _, entry in ipairs(redis.call('XRANGE', outcomes, pruned and '(' .. pruned or '-', '+', 'COUNT', next)) do
      if length <= most and tonumber(entry[2][2]) >= since and (bytes <= bytes_max or length == 1) then
        break
      end
      length, bytes, pruned, dropped = length - 1, bytes - #entry[2][6], entry[1], dropped + 1
    end
    if dropped < next then
      break
    end
    next = 100
  end
  if pruned then
    local major, minor = parts(pruned)
    redis.call('XTRIM', outcomes, 'MINID', int(major) .. '-' .. int(minor + 1))
    push(fields, 'pruned:' .. queue, pruned)
  end
  push(fields, 'kept:' .. queue, int(math.max(bytes, 0)))
end
