-- Before every script that gives out numbers, behind shared.lua. RUN stands before both: the run of the server that it is bound to (run.rs).

-- Calls `command key …` with `arguments`, some at a time: unpack takes no more than 7,999 values. The size is even, so
-- that pairs stay together.
local function call_in_parts(command, key, arguments)
  for first = 1, #arguments, 2000 do
    local last = math.min(first + 1999, #arguments)
    if key then
      redis.call(command, key, unpack(arguments, first, last))
    else
      redis.call(command, unpack(arguments, first, last))
    end
  end
end

-- To a partition that knows another run of the server; enter.lua opens it to this one.
local function another_run()
  return redis.error_reply('ENTER the partition was changed by another run of the server')
end

-- Drops what is too old of what watchers hear: all but the latest `kept` versions. A raise (enter.lua) has left a gap in them.
local function trim(stream, latest, kept, from, to)
  local first = latest - tonumber(kept) + 1
  if to and first <= tonumber(to) then
    first = first - tonumber(to) + tonumber(from)
  end
  if first > 1 then
    redis.call('XTRIM', stream, 'MINID', int(first))
  end
end

-- Writes down what watchers hear: a list of kind and version, key, kind and version, key … . An entry's id is its last version.
local function announce(stream, changes, latest, kept, from, to)
  for first = 1, #changes, 2000 do
    local last = math.min(first + 1999, #changes)
    local version = string.sub(changes[last - 1], 2)
    redis.call('XADD', stream, version .. '-0', unpack(changes, first, last))
  end
  trim(stream, latest, kept, from, to)
end

-- The answer to a change that was made before, false for a new one. `record` holds the last number of its sender, and the answer to it.
-- A number before that is of a copy that nobody waits for any more. It writes, so that replicas that have this have the change, too.
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

-- Remembers `answer` for `kept` ms, and says it.
local function remember(record, number, answer, kept)
  redis.call('SET', record, number .. ' ' .. cmsgpack.pack(answer), 'PX', kept)
  return answer
end

-- Drops outcomes from before `since`, and the oldest while there are more than `most` or more bytes of
-- them than `bytes_max`, a thousand at a time. Adds to `fields` what changes in the state by that.
local function prune(fields, queue, outcomes, since, most, bytes, bytes_max)
  local length, pruned, next = redis.call('XLEN', outcomes), nil, 1
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
