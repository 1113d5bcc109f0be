"""
The Lua scripts of the core layer, with their SHA-1. Text only, no I/O.

Rules kept by the scripts: every key is declared; times come from the server; an error of one key (such as a wrong type)
does not affect the others. A replica refuses every write, so it refuses the whole call.

Scores are seconds with six decimals, as text, because servers differ in how many digits of a double they pass on. All
messages of one call get the same score, the server's time; they keep their order through the rising prefix of their
members (``envelope``). If the last score of the key is ahead of the clock, but by no more than the expiry, the call's
score is one microsecond after it: a clock that was set back by no more than that reorders nothing, and a peer whose
clock is further ahead cannot drag the key into the future. An empty key, the usual case if consumers keep up, costs
three commands, any other key four. The time is requested once for all keys.
"""

from __future__ import annotations

import re

from ..connection.script import Script, in_lua
from ..history.placement import ENTRY_IN_LUA
from ..history.scripts import READ, RECORD, TURNS
from ..hot import pack
from ..messages.codec import CHANNEL_FIELD
from ..presence.scripts import changing

#: The bytes before the list of channels in a packed message, as a Lua string.
CHANNELS_IN_LUA = in_lua(pack({CHANNEL_FIELD: None})[1:-1])

#: The announcement of a key, given the key and how many messages it had before. If an ACL refuses it, nothing else
#: changes.
_ANNOUNCE = "if \\2 == 0 then redis.pcall('SPUBLISH', \\1, '') end"


def _written_out(text: str, announcement: str = "", expiry: str = "ARGV[1]") -> str:
    """
    Fill in a script.

    ``announcement`` replaces ``ANNOUNCE``, which stands for the announcement of a key that was written. ``expiry``: the
    argument with the expiry of messages.
    """
    return re.sub(r"ANNOUNCE\((.*), (.*)\)", announcement, text).replace("<expiry>", expiry)


#: The start of a script that writes messages; and what puts them into their order, with ``call`` and ``time``.
_TIME = """
local call = redis.call
local time = call('TIME')
"""

_ROOM = """
local expiry = <expiry>
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
#: each run ``capacity, n, member * n``. Each message is checked against its own capacity, in order. Returns 0 if all
#: were accepted; otherwise two lists: the 0-based positions of refused messages, counted over all keys; and for each
#: key that failed, the first position, the one after the last, and the error.
_SEND = (
    _TIME
    + _ROOM
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

#: KEYS: channel keys of one shard. ARGV: expiry in whole seconds, then ``capacity, member`` for each key. Returns how
#: many keys were over capacity and got nothing; or the error of the first key that failed, if any.
_GROUP_SEND = _TIME + _ROOM + _PUT + "local first = 1" + _DELIVER
GROUP_SEND = Script(_written_out(_GROUP_SEND))

#: The same for a group that is assumed to be unchanged. KEYS: the group's key, then the channel keys. ARGV: expiry; the
#: score (seconds) up to which members have expired; the SHA-1 of the list of members, in their order, as msgpack; then
#: as above. If the list differs, nothing is delivered, and the current list is returned; false if the group is large or
#: cannot be read. The list itself is compared, because anybody may add and remove members at any time. Its order
#: matters, since it determines the capacity of a key; its scores do not.
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
        + _TIME
        + _ROOM
        + _PUT
        + "local first = 2"
        + _DELIVER
    )
)

#: The same for a cluster, where receivers do not wait in Redis: a send that finds a key empty announces on the key's
#: sharded channel that it is no longer empty. Receivers look until a key is empty, so no other send needs an
#: announcement.
SEND_ANNOUNCING, GROUP_SEND_ANNOUNCING = (
    Script(_written_out(_SEND, _ANNOUNCE)),
    Script(_written_out(_GROUP_SEND, _ANNOUNCE)),
)

#: Messages to a group that has a history. KEYS: the group's key, its stream, the key of the turn if positions are
#: proposed, then the channel keys of the presumed members. ARGV: expiry; the score up to which members have expired;
#: the digest of the list of members as above, ``=`` if the single entry below names them all, empty for none; 1 to
#: record the messages even if the list differs, 0 if the sender has removed members expired up to that score, else
#: empty; the number of messages; the ID of the proposing sender if positions are proposed, else empty; the last byte up
#: to which messages are delivered as kept, counted from their end (-1 for all: only the history keeps the names of
#: excluded channels); the arguments of ``append``; for each key its capacity; for each key the packed entry that names
#: its channels. Then for each message: the proposed ID, empty for none; the message; the header of its map with the
#: entries added, and where its entries begin; and for each key the random prefix of the member that is made from all
#: that. If the header is empty, finished members take the place of the prefixes, because their sender could not leave
#: the position open.
#:
#: If the list is unchanged, each message is recorded and delivered: the reply is 1, then for each message how many keys
#: were over capacity, or the error of the first key that failed. If the list differs, nothing is done: the reply is 0
#: and the list, which is left out if the group is large. Or all messages are recorded, but not delivered: the reply is
#: 2, the list, and the position of each message. If a message cannot be recorded, the reply ends with a list for it,
#: and those after it are left out: the newest ID of the stream, if the message's own was not above it, and an error. If
#: it is another sender's turn to record, nothing is done, and the reply is 3.
#:
#: The cost of a single message is that of its commands, so there are as few as possible: the stream's expiry, which has
#: a second to spare, is only renewed if the last message was from a different second.
_RECORDED = (
    RECORD
    + "<turns>"
    + """
local by, others = ARGV[6], ARGV[6] == '' and 2 or 3
local keys = #KEYS - others

local function is_expected(members)
  -- Comparing the list itself costs a tenth of computing a digest.
  if ARGV[3] == '=' then return <channels> .. cmsgpack.pack(members) == ARGV[13 + keys] end
  return ARGV[3] ~= '' and redis.sha1hex(cmsgpack.pack(members)) == ARGV[3]
end

-- Expired members need not be removed twice in the same second.
local anyway = ARGV[4] == '1'
local function look()
  local trimmed = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '0', ARGV[2])
  if type(trimmed) == 'table' then return nil, trimmed end
  if not anyway and call('ZCARD', KEYS[1]) > 1000 then return nil, {0} end
  return call('ZRANGE', KEYS[1], '0', '-1')
end
local members, is_same, reply = nil, false, nil
if ARGV[4] == '0' then
  -- Reads one member more than a group may have to be compared here.
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
    + _written_out(_TIME + _ROOM + _PUT)
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


#: The script for messages to which it adds their positions, and the one for messages whose positions are proposed.
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

#: Changes who is present in a group, and delivers the events to its members. The keys of ``deliver``: the group's key,
#: and the channel keys of the presumed members. Its arguments: expiry in whole seconds; the score (seconds) up to which
#: members have expired; the length of a member's random prefix; the prefix of all keys; for each channel key its
#: capacity. If the group has a member on another key, or more than 1,000, nothing is delivered.
CHANGE_AND_DELIVER = changing(
    """
local delivery
local function delivering()
<room>
  local capacities, names = {}, {}
  for i = 5, #KEYS do capacities[KEYS[i]] = ARGV[7 + i] end
  local members = redis.pcall('ZRANGEBYSCORE', KEYS[4], '(' .. ARGV[9], '+inf', 'LIMIT', 0, 1001)
  if members.err or #members > 1000 then return false end
  for i = 1, #members do
    local key = ARGV[11] .. string.sub(members[i], 1, string.find(members[i], '!', 1, true) or -1)
    if not capacities[key] then return false end
    names[key] = names[key] or {}
    table.insert(names[key], members[i])
  end
  for key, channels in pairs(names) do names[key] = <channels> .. cmsgpack.pack(channels) end
  return function(entries)
    -- Two events differ anyway, but receivers may remember a message by its prefix.
    local random = string.sub(string.rep(last_text .. epoch, math.ceil(ARGV[10] / #epoch)), 1, ARGV[10])
    local message = random .. '\\134' .. entries
    over = 0
    for key, channels in pairs(names) do
      if not pcall(put, key, capacities[key], message .. channels) then return false end
    end
    over_capacity = over_capacity + over
    return true
  end
end
local function deliver(entries)
  if delivery == nil then delivery = delivering() end
  return delivery and delivery(entries)
end
""".replace("<room>", _written_out(_ROOM + _PUT, expiry="ARGV[8]")).replace("<channels>", CHANNELS_IN_LUA)
)

#: Channels join a group and read what they have missed, in one step: whatever is recorded later is delivered to them.
#: KEYS: the group's key, its stream. ARGV: as for ``read``; the expiry of the group in seconds; then for each channel
#: its score and its name.
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

#: Removes members whose process is dead from a group. KEYS: the group's key. ARGV: a score, then members: those with
#: this score or a higher one were added since, and stay. Returns how many were removed.
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

#: The scripts for groups with a history, for both kinds of messages.
OF_FILLED, OF_PROPOSED = (FILLED_GROUP_SEND, GROUP_RESUME), (PROPOSED_GROUP_SEND, GROUP_RESUME)
