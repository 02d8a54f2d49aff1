-- The changes of a partition behind a version, all at one moment.
--
-- KEYS  1 state, 2 changes
-- ARGV  1 version, 2 most entries
-- Says  {latest version, entries}
local entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
return { redis.call('HGET', KEYS[1], 'version') or '0', entries }
