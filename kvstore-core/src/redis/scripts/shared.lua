-- Before every other script. Numbers are written with int(): tostring would turn 10^15 into 1e+15.
local function int(number)
  return string.format('%.0f', number)
end

-- The server's time in milliseconds, moved by `skew`.
local function server_time(skew)
  local parts = redis.call('TIME')
  return tonumber(parts[1]) * 1000 + math.floor(tonumber(parts[2]) / 1000) + tonumber(skew)
end

-- The partition's time, which never goes back: `latest` is what it was when something was last changed.
local function store_time(skew, latest)
  return math.max(server_time(skew), tonumber(latest or '0') or 0)
end

-- The version in the text of an entry, false if there is none or it has expired; and whether there is a text.
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

-- Sends a message. If the user may not send it, what is written stays written, and the waiters find it
-- when they poll.
local function publish(channel, message)
  redis.pcall('PUBLISH', channel, message)
end

-- The two numbers of a position.
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
