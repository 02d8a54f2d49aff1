-- Binds the queue to the store on the same server, or to a folder. The first caller decides.
--
-- KEYS  1 meta
-- ARGV  1 'here', or the id of the folder
-- Says  whose jobs the queue holds
redis.call('HSETNX', KEYS[1], 'store', ARGV[1])
return redis.call('HGET', KEYS[1], 'store')
