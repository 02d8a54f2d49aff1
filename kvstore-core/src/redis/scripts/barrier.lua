-- Writes, also on a full server, so that a wait on the same connection covers what was read before:
-- it waits until replicas have the connection's last write. A full server's queue drains only
-- through jobs that replicas have.
--
-- KEYS  1 barrier
-- ARGV  1 when its key expires (ms)
return redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
