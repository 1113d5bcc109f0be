"""
The Lua scripts of the core layer, with their SHA-1. Text only, no I/O.

Rules they keep: every key is declared; times come from the server; what is wrong with one key (a foreign type,
say) leaves the others alone. A replica refuses every write, so it refuses the whole call.

Scores are seconds with six decimals, as text, since engines differ in how many digits of a double they pass on.
All messages of one call get one score, the server's time: what was sent in one go keeps its order through the
rising prefix of its members (``envelope``). A call is stamped one microsecond after the last score of the key if
that lies at most the expiry ahead: a clock that was set back by no more reorders nothing, and a peer whose clock is
further ahead cannot drag the key into the future. An empty key, the usual one where consumers keep up, costs
three commands, any other four, and the time is asked once for all.
"""

from __future__ import annotations

import re

from ..connection.script import Script

#: The announcement of a key, from the key and how many messages were there before. If an ACL refuses it, nothing else
#: changes.
_ANNOUNCE = "if \\2 == 0 then redis.pcall('SPUBLISH', \\1, '') end"


def _written_out(text: str, announcement: str = "") -> str:
    """Put the announcement of a key that was written into a script, or nothing."""
    return re.sub(r"ANNOUNCE\((.*), (.*)\)", announcement, text)


_ROOM = """
local call = redis.call
local time = call('TIME')
local expiry = ARGV[1]
local expired = time[1] - expiry
local now = string.format('%d.%06d', time[1], time[2])

local function room(key)
  local count = call('ZCARD', key)
  if count == 0 or call('ZCOUNT', key, '(' .. expired, '(' .. now) == count then
    return count, now
  end
  count = count - call('ZREMRANGEBYSCORE', key, 0, expired)
  local last = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  if last then
    local stamp, after = time[1] * 1000000 + time[2], math.floor(last * 1000000 + 0.5) + 1
    if after > stamp and after <= stamp + expiry * 1000000 then
      return count, string.format('%d.%06d', after / 1000000, after % 1000000)
    end
  end
  return count, now
end
"""

#: KEYS: channel keys of one shard. ARGV: expiry in whole seconds; then for each key the number of its runs, and for
#: each run ``capacity, n, member * n``. Each message is tested against its own capacity, in order. Returns 0 when all
#: were taken; else two lists: the 0-based positions of the messages refused, counted over all keys; and for each key
#: that failed the first position, the one behind the last, and the error.
_SEND = (
    _ROOM
    + """
local refused, failed = {}, {}
local position, at = 0, 2
for k = 1, #KEYS do
  local key, first = KEYS[k], position
  local ok, count, stamp = pcall(room, key)
  local problem
  if not ok then problem, count = count, 0 end
  local before = count
  local add, length = {'ZADD', key}, 2
  local runs = tonumber(ARGV[at])
  at = at + 1
  for run = 1, runs do
    local free, last = ARGV[at] - count, at + 1 + ARGV[at + 1]
    for i = at + 2, last do
      if free > 0 then
        add[length + 1] = stamp
        add[length + 2] = ARGV[i]
        length = length + 2
        count = count + 1
        free = free - 1
      elseif ok then
        refused[#refused + 1] = position
      end
      position = position + 1
    end
    at = last + 1
  end
  if ok and length > 2 then
    ok, problem = pcall(call, unpack(add))
    if ok then call('EXPIRE', key, expiry) ANNOUNCE(key, before) end
  end
  if not ok then
    local text = type(problem) == 'table' and problem.err or tostring(problem)
    if string.find(text, 'READONLY', 1, true) then return {err = text} end
    failed[#failed + 1] = first
    failed[#failed + 1] = position
    failed[#failed + 1] = text
  end
end
if #refused == 0 and #failed == 0 then return 0 end
return {refused, failed}
"""
)
SEND = Script(_written_out(_SEND))

_DELIVER = """
local over, problem = 0
local function deliver(i)
  local count, stamp = room(KEYS[i])
  if count < tonumber(ARGV[2 * i]) then
    call('ZADD', KEYS[i], stamp, ARGV[2 * i + 1])
    call('EXPIRE', KEYS[i], expiry) ANNOUNCE(KEYS[i], count)
  else
    over = over + 1
  end
end
for i = first, #KEYS do
  local ok, failure = pcall(deliver, i)
  if not ok then
    local text = type(failure) == 'table' and failure.err or tostring(failure)
    if string.find(text, 'READONLY', 1, true) then return {err = text} end
    problem = problem or text
  end
end
if problem then return {err = problem} end
return over
"""

#: KEYS: channel keys of one shard. ARGV: expiry in whole seconds, then ``capacity, member`` for each key.
#: Returns how many keys were over capacity and got nothing; the error of the first key that failed, if one did.
_GROUP_SEND = _ROOM + "local first = 1" + _DELIVER
GROUP_SEND = Script(_written_out(_GROUP_SEND))

#: The same for a group that is thought to be what it was. KEYS: the group's key, then the channel keys. ARGV: expiry;
#: the score (seconds) up to which members have expired; the SHA-1 of the list of members, in their order, as msgpack;
#: then as above. Where the list is another, nothing is delivered and the list returned; false where the group is large
#: or cannot be looked at. The list itself is compared, since a member may be added and removed by anybody at any time;
#: in its order, which says what capacity a key has, and without its scores.
SAME_GROUP_SEND = Script(
    _written_out(
        """
local function look(key)
  redis.call('ZREMRANGEBYSCORE', key, 0, ARGV[2])
  if redis.call('ZCARD', key) > 1000 then return nil end
  local members = redis.call('ZRANGE', key, 0, -1)
  return members, redis.sha1hex(cmsgpack.pack(members))
end

local ok, members, digest = pcall(look, KEYS[1])
if not ok then
  local text = type(members) == 'table' and members.err or tostring(members)
  if string.find(text, 'READONLY', 1, true) then return {err = text} end
  return false
end
if digest ~= ARGV[3] then return members end
"""
        + _ROOM
        + "local first = 2"
        + _DELIVER
    )
)

#: The same for a cluster, where receivers do not wait in Redis: a send that finds a key empty announces on the key's
#: sharded channel that it no longer is. Receivers look until a key is empty, so no other send needs an announcement.
SEND_ANNOUNCING, GROUP_SEND_ANNOUNCING = (
    Script(_written_out(_SEND, _ANNOUNCE)),
    Script(_written_out(_GROUP_SEND, _ANNOUNCE)),
)

ALL = (SEND, GROUP_SEND, SAME_GROUP_SEND)
OF_A_CLUSTER = (SEND_ANNOUNCING, GROUP_SEND_ANNOUNCING)
