-- Precedes every other script. Numbers are written with int(): tostring would turn 10^15 into
-- 1e+15. A number past 2^53, which only a time can be, becomes 2^53.
local function int(number)
  return string.format('%d', number < 2 ^ 53 and number or 2 ^ 53)
end

-- Runs a command that reads. If it fails, the error names the key, which may have the wrong type.
local function look(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    error({ err = found.err .. ' (key ' .. key .. ')' })
  end
  return found
end

-- Returns the server's time in milliseconds, moved by `skew`.
local function server_time(skew)
  local parts = redis.call('TIME')
  return tonumber(parts[1]) * 1000 + math.floor(tonumber(parts[2]) / 1000) + tonumber(skew)
end

-- Returns the partition's time, and the text that records it. `known` is that text from the last
-- change: the time then, and how far it was ahead of the clock. The time never moves backwards;
-- where the clock is behind it (it was set back, or another server with another clock has taken
-- over), it keeps its lead.
local function store_time(skew, known)
  local clock = server_time(skew)
  local latest, ahead = string.match(known or '0', '^(%d+) ?(%d*)$')
  latest, ahead = tonumber(latest), tonumber(ahead) or 0
  if clock >= latest then
    return clock, int(clock)
  end
  ahead = math.max(ahead, latest - clock)
  return clock + ahead, int(clock + ahead) .. ' ' .. int(ahead)
end

-- Returns the version in the text of an entry, false if there is none or it has expired; and
-- whether there is a text.
local function live_version(text, now)
  if not text then
    return false, false
  end
  local version, deadline = string.match(text, '^(%d+) (%d+) ')
  if not version then
    error('an entry does not start with a version and a deadline')
  end
  if deadline ~= '0' and tonumber(deadline) <= now then
    return false, true
  end
  return version, true
end

-- Most bytes of jobs, and of outcomes, that a message carries to each process. A process that waits
-- for others reads them.
local CARRIED = 2048

-- Sends a message. If the user may not send it, what is written stays written, and the waiters find
-- it when they poll.
local function publish(channel, message)
  redis.pcall('PUBLISH', channel, message)
end

-- Returns the two numbers of a position.
local function parts(position)
  local major, minor = string.match(position, '^(%d+)-(%d+)$')
  return tonumber(major), tonumber(minor)
end

-- Returns true if one position lies before another.
local function is_before(one, other)
  local major, minor = parts(one)
  local other_major, other_minor = parts(other)
  return major < other_major or (major == other_major and minor < other_minor)
end

-- Appends one or two values to a list.
local function push(list, value, another)
  list[#list + 1] = value
  list[#list + 1] = another
end

-- Returns the entries of the log that hold jobs behind a position, up to `most` jobs or `room`
-- bytes, but at least one entry. The first may begin before the position.
local function entries_behind(jobs, position, most, room)
  local found, held, bytes, next = {}, 0, 0, 1
  while next > 0 do
    local part = look('XRANGE', jobs, '(' .. position, '+', 'COUNT', next)
    for _, entry in ipairs(part) do
      held, bytes, position = held + (#entry[2] - 4) / 2, bytes + tonumber(entry[2][4]), entry[1]
      push(found, entry)
      if held >= most or bytes >= room then
        return found
      end
    end
    if #part < next then
      return found
    end
    -- As many as there is room for if they resemble the previous ones.
    next = math.ceil(#found * math.min((most - held) / held, (room - bytes) / math.max(bytes, 1), 15))
  end
  return found
end

-- Drops the jobs up to a position that are still held. `next` is the first entry that holds jobs
-- behind it, `held` the queue's fields trimmed, jobs and bytes. An entry is dropped with the last of
-- its jobs. Returns the last job dropped.
local function drop(queue, jobs, up_to, next, held)
  local trimmed = held[1] or '0-0'
  if not is_before(trimmed, up_to) then
    return trimmed
  end
  local count, bytes, major, minor = held[2] or '0', held[3] or '0', parts(up_to)
  if next then
    local fields, next_major, next_minor = next[2], parts(next[1])
    count, bytes = tonumber(fields[2]), tonumber(fields[3])
    -- It also holds jobs up to the position, if the position lies in it.
    for place = 5, next_major == major and #fields - 2 * (next_minor - minor) or 0, 2 do
      count, bytes = count + 1, bytes + tonumber(fields[place])
    end
    count, bytes = int(count), int(bytes)
  end
  redis.call('HSET', queue, 'jobs done', count, 'bytes done', bytes, 'trimmed', up_to)
  redis.call('XTRIM', jobs, 'MINID', int(major) .. '-' .. int(minor + 1))
  return up_to
end
