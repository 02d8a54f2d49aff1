-- The changes of a partition behind a version, all at one moment.
--
-- KEYS  1 state, 2 changes
-- ARGV  1 version, 2 most entries
-- Says  {latest version, the one behind the gap of the raise before the last, the last one before that of
--       the last, the one behind it (false if there was none), entries}
local entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'version', 'raised before', 'raised from', 'raised to')
return { known[1] or '0', known[2], known[3], known[4], entries }
