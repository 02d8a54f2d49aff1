-- Says whose jobs the queue holds: the store's beside it, or those of a folder. The first to ask decides.
--
-- KEYS  1 meta
-- ARGV  1 'here', or the id of the folder
-- Says  whose they are
redis.call('HSETNX', KEYS[1], 'store', ARGV[1])
return redis.call('HGET', KEYS[1], 'store')
