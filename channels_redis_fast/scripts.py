"""
The Lua scripts of the core layer, with their SHA-1. Text only, no I/O.

Rules they keep: every key is declared; all keys of one call may live on one server only if the caller says
so (the send script takes one key, so that it also runs on a cluster); times come from the server.

Scores are seconds as a double, as channels_redis writes them. Inside the scripts they are whole
microseconds, which a double holds exactly, so that adding one always gives a later score; they are written out
as decimals, since engines differ in how many digits of a double they pass on. The stamp of a
message is the server's time, or one microsecond after the last score of the key if that lies less than a
second ahead: batches that fall into one microsecond keep their order, and a peer whose clock is far ahead
cannot drag the key into the future. An empty key, the usual case where consumers keep up, costs four commands.
"""

from __future__ import annotations

from hashlib import sha1


class Script:
    """A Lua script: ``text`` for SCRIPT LOAD and EVAL, ``sha`` (hex) for EVALSHA."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text.strip().encode()
        self.sha = sha1(self.text).hexdigest().encode()


_ROOM = """
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local expiry = ARGV[1]

local function score(stamp)
  return string.format('%d.%06d', stamp / 1000000, stamp % 1000000)
end

local function room(key)
  local count, stamp = call('ZCARD', key), now
  if count > 0 then
    count = count - call('ZREMRANGEBYSCORE', key, 0, time[1] - expiry)
    local last = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
    if last then
      last = math.floor(last * 1000000 + 0.5)
      if last >= now and last < now + 1000000 then stamp = last + 1 end
    end
  end
  return count, stamp
end
"""

#: KEYS: one channel key. ARGV: expiry in whole seconds, then runs of ``capacity, n, member * n``.
#: Each message is tested against its own capacity, in order. Returns 0, or the 0-based positions refused.
SEND = Script(
    _ROOM
    + """
local key = KEYS[1]
local count, stamp = room(key)
local refused = {}
local add = {'ZADD', key}
local length, position, at = 2, 0, 2
while at < #ARGV do
  local capacity, last = tonumber(ARGV[at]), at + 1 + ARGV[at + 1]
  for i = at + 2, last do
    if count < capacity then
      add[length + 1] = score(stamp)
      add[length + 2] = ARGV[i]
      length = length + 2
      count = count + 1
      stamp = stamp + 1
    else
      refused[#refused + 1] = position
    end
    position = position + 1
  end
  at = last + 1
end
if length > 2 then
  call(unpack(add))
  call('EXPIRE', key, expiry)
end
if #refused == 0 then return 0 end
return refused
"""
)

#: KEYS: channel keys of one shard. ARGV: expiry in whole seconds, then ``capacity, member`` for each key.
#: Returns how many keys were over capacity and got nothing.
GROUP_SEND = Script(
    _ROOM
    + """
local over = 0
for i = 1, #KEYS do
  local count, stamp = room(KEYS[i])
  if count < tonumber(ARGV[2 * i]) then
    call('ZADD', KEYS[i], score(stamp), ARGV[2 * i + 1])
    call('EXPIRE', KEYS[i], expiry)
  else
    over = over + 1
  end
end
return over
"""
)

ALL = (SEND, GROUP_SEND)
