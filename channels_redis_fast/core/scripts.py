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
from ..history.placement import ENTRY_IN_LUA, in_lua
from ..history.scripts import READ, RECORD, TURNS
from ..hot import pack
from ..messages.codec import CHANNEL_FIELD

#: What stands in a packed message before the list of its channels, as Lua writes it.
CHANNELS_IN_LUA = in_lua(pack({CHANNEL_FIELD: None})[1:-1])

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

_PUT = """
local over = 0
local function put(key, capacity, member)
  local count, stamp = room(key)
  if count < tonumber(capacity) then
    call('ZADD', key, stamp, member)
    call('EXPIRE', key, expiry) ANNOUNCE(key, count)
  else
    over = over + 1
  end
end
"""

_DELIVER = """
local problem
for i = first, #KEYS do
  local ok, failure = pcall(put, KEYS[i], ARGV[2 * i], ARGV[2 * i + 1])
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
_GROUP_SEND = _ROOM + _PUT + "local first = 1" + _DELIVER
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
        + _PUT
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

#: Messages to a group that has a history. KEYS: the group's key, its stream, the key of the turn if positions are
#: proposed, then the channel keys of who is thought to be in it. ARGV: expiry; the score up to which members have
#: expired; the digest of the list of members as above, ``=`` where all are named by the one entry below, empty for
#: none; 1 to record the messages though the list is another, 0 if the sender has looked at it up to that score, else
#: empty; how many messages; by whom, where positions are proposed, else empty; up to which byte messages are delivered
#: as they are kept, from their end (-1 for all: the history alone knows whom they exclude); what ``append`` takes; for
#: each key its capacity; for each key the packed entry that names its channels. Then for each message the ID that is
#: proposed, empty for none; the message; the header of the map that it becomes with two more entries, and where its
#: entries begin; and for each key the random prefix of the member that is made of all that. Where the header is empty,
#: finished members are in place of the prefixes, since their sender could not leave the position open.
#:
#: Where the list is what it was, each message is recorded and delivered: the reply is 1, then for each message how many
#: keys were over capacity, or the error of the first key that failed. Where it is another, nothing is done: the reply
#: is 0 and the list, which is left out where the group is large. Or nothing is delivered, but all is recorded: the
#: reply is 2, the list, and each message's position. A message that cannot be recorded is the last of the reply, and
#: those behind it are left out: a list of the newest ID of the stream, if its own was not above that, and an error.
#: Where it is another's turn to record, nothing is done, and the reply is 3.
#:
#: A lone message costs what its commands do, so that there are as few as can be: the time of idleness, which has a
#: second to spare, begins anew if the last message was of another second.
_RECORDED = (
    RECORD
    + "<turns>"
    + """
local by, others = ARGV[6], ARGV[6] == '' and 2 or 3
local keys = #KEYS - others

local function is_expected(members)
  -- To compare the list itself costs a tenth of a digest.
  if ARGV[3] == '=' then return <channels> .. cmsgpack.pack(members) == ARGV[13 + keys] end
  return ARGV[3] ~= '' and redis.sha1hex(cmsgpack.pack(members)) == ARGV[3]
end

-- Nobody expires twice in a second.
local anyway = ARGV[4] == '1'
local function look()
  local trimmed = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '0', ARGV[2])
  if type(trimmed) == 'table' then return nil, trimmed end
  if not anyway and call('ZCARD', KEYS[1]) > 1000 then return nil, {0} end
  return call('ZRANGE', KEYS[1], '0', '-1')
end
local members, is_same, reply = nil, false, nil
if ARGV[4] == '0' then
  -- One more than a group may have that is looked at here.
  members = redis.pcall('ZRANGE', KEYS[1], '0', '1000')
  is_same = not members.err and is_expected(members)
end
if not is_same then
  members, reply = look()
  if not members then return reply end
  is_same = is_expected(members)
  if not is_same and not anyway then return {0, members} end
end
<begin>
"""
    + _written_out(_ROOM + _PUT)
    + """
local tails, at = 12 + keys, 13 + 2 * keys

local function deliver(at, body, position)
  local problem
  local middle = ARGV[at] ~= '' and ARGV[at] .. string.sub(body, ARGV[at + 1], ARGV[7]) .. <entry> .. position
  over = 0
  for i = 1, keys do
    local member = ARGV[at + 1 + i]
    if middle then member = member .. middle .. ARGV[tails + i] end
    local ok, failure = pcall(put, KEYS[i + others], ARGV[12 + i], member)
    if not ok then
      problem = problem or (type(failure) == 'table' and failure.err or tostring(failure))
    end
  end
  return problem or over
end

local key, state = KEYS[2], {newest(KEYS[2])}
local second = state[1] and string.sub(state[1], 1, 10)
reply = is_same and {1} or {2, members}
local newer, failure
for message = 1, tonumber(ARGV[5]) do
  local body, position = ARGV[at + 1]
  position, newer, failure = append(key, state, 8, is_same and ARGV[at] or '', body)
  if not position then
    if failure and message == 1 then return failure end
    reply[#reply + 1] = {newer or '', failure and failure.err or ''}
    break
  end
  reply[#reply + 1] = is_same and deliver(at + 2, body, position) or position
  at = at + 4 + keys
end
<end>
return reply
"""
)


def _recorded(**parts: str) -> Script:
    text = _RECORDED
    for name, part in {**parts, "channels": CHANNELS_IN_LUA, "entry": ENTRY_IN_LUA}.items():
        text = text.replace(f"<{name}>", part)
    return Script(text)


#: The same for messages to which it adds their positions, and for those whose positions are proposed.
FILLED_GROUP_SEND = _recorded(turns="", begin="", end="if second ~= time[1] then call('EXPIRE', key, ARGV[10]) end")
PROPOSED_GROUP_SEND = _recorded(
    turns=TURNS,
    begin="""
local may_record, is_turn = true, false
if by ~= '' then may_record, is_turn = is_free(KEYS[3], by) end
if not may_record then return {3} end
""",
    end="""
call('EXPIRE', key, ARGV[10])
if by ~= '' and newer then claim(KEYS[3], by) elseif is_turn then pass_on(KEYS[3]) end
""",
)

#: Channels join a group and read what they have missed, in one: whatever is recorded later is delivered to them. KEYS:
#: the group's key, its stream. ARGV: as for ``read``; for how many seconds the group lives; then for each channel its
#: score and its name.
GROUP_RESUME = Script(
    READ
    + """
local history = read(KEYS[2], 1)
if history.err then return history end
call('ZADD', KEYS[1], unpack(ARGV, 8))
call('EXPIRE', KEYS[1], ARGV[7])
return history
"""
)

#: Members whose process is dead leave a group. KEYS: the group's key. ARGV: a score, then members: those that have it,
#: or a higher one, were added since and stay. Returns how many have left.
REMOVE_MEMBERS = Script(
    """
local removed, limit = 0, tonumber(ARGV[1])
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) < limit then removed = removed + redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return removed
"""
)

ALL = (SEND, GROUP_SEND, SAME_GROUP_SEND)
OF_A_CLUSTER = (SEND_ANNOUNCING, GROUP_SEND_ANNOUNCING)

#: Of groups with a history, for messages of both kinds.
OF_FILLED, OF_PROPOSED = (FILLED_GROUP_SEND, GROUP_RESUME), (PROPOSED_GROUP_SEND, GROUP_RESUME)
