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

-- Drops outcomes from before `since`, and all but the latest `most`, a thousand at a time. Returns the
-- position of the last that it dropped, false if there was none.
local function prune(outcomes, since, most)
  local pruned, many = false, redis.call('XLEN', outcomes) - most
  for _ = 1, 10 do
    local dropped = {}
    for _, entry in ipairs(redis.call('XRANGE', outcomes, '-', '+', 'COUNT', 100)) do
      if many <= 0 and tonumber(entry[2][2]) >= since then
        break
      end
      dropped[#dropped + 1] = entry[1]
      many = many - 1
      pruned = entry[1]
    end
    if #dropped > 0 then
      redis.call('XDEL', outcomes, unpack(dropped))
    end
    if #dropped < 100 then
      break
    end
  end
  return pruned
end
