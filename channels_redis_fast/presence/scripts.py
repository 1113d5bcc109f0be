"""
The Lua script of a group's presence: all changes of one call, and the events that follow. Text only, no I/O.

KEYS are those of ``PresenceKeys``. Fields of the head: ``group``, its name; ``epoch``, of this data; ``since``, the
start of the epoch; ``server``, its run id; ``fresh``, set if there was no data before; ``kept``, when the expiry was
renewed, if there are users; ``doubt``, until when events may be known already; ``of OWNER`` for each process that has a
part in the group, with the last epoch in which it confirmed that; ``last``, the number of the last event; ``told``, the
number of the last delivered event; ``claim``, who delivers the events in between, and until when
(``PROCESS/LOOP MILLISECONDS``).
Fields of the channels: ``cCHANNEL`` is ``OWNER USER``; ``nUSER`` is the number of the user's channels; ``wUSER`` is
what the user's change waits for (``l``: to leave, ``j``: to be announced), until when, and which process takes care of
it; ``xCHANNEL`` says that another process than its own ended the channel, when, and whose it was; ``eNUMBER`` is an
event that is to be delivered.

Rules kept here:

- A user is present from the first channel until the last one has left and the grace time is over. Each time this begins
  or ends there is one event, with the next number. Events are delivered in order, by one claimant at a time. A claim
  ends when everything is delivered, when its time is over, or with its process. Where it can, the script itself
  delivers an event, unless others have to be delivered before it.
- Doing something twice has the same effect and the same result as doing it once: a call is repeated if its answer was
  lost.
- An epoch ends with the server's life, since the last changes may be lost with it. A caller that knows another epoch is
  told so, and nothing is done: it has to restore its part first. Events that follow may have been told before, and are
  marked as in doubt. So are the events of a first epoch on a server that was started lately: its caller may be new, and
  others may have yet to restore their parts.
- Only processes that are named as gone lose their part.
- A server that took another's place may lack the last changes, including departures. So nobody is told that a user is
  present because of something that a process has not confirmed since; and repeated events are in doubt.
"""

from __future__ import annotations

from typing import Any

from ..connection.script import Script, in_lua
from ..hot import pack
from .events import FIELD

#: Milliseconds that a claimant has for delivering events. It gets the same again with each delivery.
CLAIM = 10_000

#: Seconds for which the data of a group with users is kept, and of a group without. Processes renew the former.
KEPT, KEPT_EMPTY = 86_400, 600

#: Milliseconds after which restoring lost data is late: for about this long nobody is announced as having left.
LATE = 6_000

#: Milliseconds for which receivers of an epoch's events may already know events of the epoch that follows it.
DOUBT = 30_000

#: Milliseconds for which joins do not renew the expiry ``KEPT``, since that costs the server as much as a join. Joins
#: empty no group.
KEEP_AGAIN = 600_000

#: Seconds for which it is remembered that another process has ended a channel.
ENDED_KEPT = 86_400

#: Prefix of an owner that is gone only if it has not confirmed its part.
UNLESS_CONFIRMED = b"?"

#: Maximum number of events in one reply.
MAX_EVENTS = 1_000

#: Maximum number of events that a group is told before its receivers had an opportunity to read them: a quarter of the
#: capacity that a channel has by default.
MAX_AT_ONCE = 25


def _before_value(message: dict[str, Any]) -> str:
    """Return the packed entries of a message up to its last value, which is None, as a Lua string."""
    return in_lua(pack(message)[1:-1])


#: ARGV: the process as owner; the epoch that the caller knows, empty for none; the server's run id, empty if unknown;
#: what the usual joins do not need, separated by spaces; then empty if there are no events, 0 if the script must not
#: deliver them, else the number of arguments for that: where the value begins in a stored info (index from 1), the
#: packed name of the group, and what ``deliver`` needs. Then four for each operation, below.
#:
#: What the usual joins do not need: what is done about a different epoch (``-`` for nothing, ``q`` to restore quietly,
#: ``l`` to restore with events); the delay of announcements in milliseconds; the name of the process as claimant; the
#: epoch that begins if there is none; the newest event number that the caller knows; the grace time in milliseconds;
#: whether the server was started lately (1, or 0); owners that are gone, separated by commas (one with a question mark
#: is gone only if it has not confirmed its part in this epoch); the name of the group. It is one argument, because each
#: takes the server about a thousand instructions.
#:
#: The operations:
#:
#: - ``j`` channel user info: a channel joins. ``r``: the same, unless another process has ended it meanwhile.
#: - ``l`` channel user: a channel of this process leaves. ``k`` channel: any channel leaves, and is not restored.
#: - ``u`` user: all channels of a user leave, without grace.
#: - ``w`` user: the time for which a user's change had to wait is over.
#: - ``L`` user info milliseconds: a user is leaving, and has this much time left. ``J`` user info milliseconds: a user
#:   who is present is to be announced after that time.
#: - ``z``: what this process has under its earlier names leaves, except what was restored in this call.
#: - ``s``: what owners that are gone have left is cleaned up.
#: - ``a`` number epoch: events up to that number are delivered.
#: - ``c`` user info: the group is told whether the user is present, since events may have been lost; 2 if that is not
#:   certain yet and has to be asked again.
#: - ``e``: nothing, except that the data is kept.
#:
#: Returns only the epoch if it is not the one that the caller knows; the epoch and the number of operations if all of
#: them were usual joins and there is nothing else to say. Otherwise: the epoch; by operation, whether there was
#: something to do; the users whose change waits for this process to take care of it, four entries each: the user,
#: ``l`` or ``j``, the milliseconds, the info; the owners that have a part in the group, for a caller that knew no
#: epoch; how many keys got no event because they were at capacity; the number of the first event that this process is
#: to deliver, 0 for none, or if negative the milliseconds until another's claim ends; and the events: ``j`` or ``l``
#: (upper case if it may be known already), the length of the user, a space, the user, the info.
#:
#: The usual joins come first, by themselves: creating the functions for everything else takes the server longer than a
#: join. Numbers that do not change are text here, because Redis formats a number of Lua for each command.
_CHANGE = (
    """
local call = redis.call
local users, head, channels = KEYS[1], KEYS[2], KEYS[3]
local owner, known, server, has_events = ARGV[1], ARGV[2], ARGV[3], ARGV[5] ~= ''
-- Returns what the usual joins do not need, from the third on: the claimant, a new epoch, the newest event, the grace
-- time, whether the server was started lately, the owners that are gone, the group.
local function rest() return string.match(ARGV[4], '^%S+ %d+ (%S+) (%S+) (%d+) (%d+) (%d) (%S*) (.*)$') end
local mode, delay = '-', 0
if string.sub(ARGV[4], 1, 4) ~= '- 0 ' then
  mode, delay = string.match(ARGV[4], '^(%S+) (%d+)')
  delay = tonumber(delay)
end

local found = call('HMGET', head, 'epoch', 'last', 'told', 'claim', 'of ' .. owner, 'server', 'doubt', 'kept')
local epoch, last, told, claim = found[1], 0, 0, found[4]
if found[2] then last, told = tonumber(found[2]), tonumber(found[3] or 0) end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not epoch or (found[6] ~= server and server ~= '') then
  -- Undelivered events are deleted: the process that was to deliver them confirms them.
  for event = told + 1, last do call('HDEL', channels, 'e' .. event) end
  call('HDEL', head, 'claim', 'fresh')
  if not epoch then
    -- What is left without a head cannot be cleaned up, and its processes restore it. Another type is an error. An ACL
    -- may forbid UNLINK, which only this and flush() need.
    if call('HLEN', users) + call('HLEN', channels) > 0 then redis.pcall('UNLINK', users, channels) end
    call('HSET', head, 'fresh', 1, 'group', select(7, rest()))
  end
  local _, new_epoch, _, _, is_young = rest()
  epoch, told, claim = new_epoch, last, false
  call('HSET', head, 'epoch', epoch, 'since', string.format('%.0f', now), 'server', server, 'told', told)
  found[7] = false
  if delay > 0 or known ~= '' or found[6] or is_young == '1' then
    found[7] = string.format('%.0f', now + DOUBT)
    call('HSET', head, 'doubt', found[7])
  else
    call('HDEL', head, 'doubt')
  end
end
local is_lost = known ~= '' and known ~= epoch
local is_doubtful = mode ~= '-' or (found[7] and now < tonumber(found[7]))
if is_lost and mode == '-' then return {epoch} end
local confirmed = found[5]
if confirmed ~= epoch then call('HSET', head, 'of ' .. owner, epoch) end
local last_before, told_before = last, told
-- Formatting a number takes Redis longer than anything else here, so it is done once.
local last_text
local over_capacity = 0

local tell
if has_events then
  -- Returns the five entries of an event as msgpack; false for a number that Lua cannot represent exactly.
  local function packed(kind, user, info)
    local pack, first, who = cmsgpack.pack, string.byte(user), '\\192'
    if first == <s> then
      who = pack(string.sub(user, 2))
    elseif first == <i> then
      local name = string.sub(user, 2)
      local number = tonumber(name)
      if string.format('%.0f', number) ~= name or math.abs(number) >= 2 ^ 63 then return false end
      who = pack(number)
    end
    return ((kind == 'j' or kind == 'J') and <type join group> or <type leave group>) .. ARGV[7] .. <user> .. who
      .. <info> .. (info and info ~= '' and string.sub(info, ARGV[6]) or '\\192')
      .. <field> .. pack(epoch .. '-' .. last_text .. ((kind == 'J' or kind == 'L') and '?' or ''))
  end

  DELIVER
  tell = function(kind, user, info)
    if is_doubtful then kind = string.upper(kind) end
    last = last + 1
    last_text = string.format('%d', last)
    -- Deliver it here if no other event must be delivered before it, and if receivers can keep up.
    if ARGV[5] ~= '0' and told == last - 1 and told - told_before < MAX_AT_ONCE then
      local entries = packed(kind, user, info)
      if entries and deliver(entries) then
        told = last
        return
      end
    end
    call('HSET', channels, 'e' .. last_text, kind .. #user .. ' ' .. user .. (info or ''))
  end
end

local owners, stale
if known == '' or mode ~= '-' then
  owners, stale = {}, {}
  local all, process = call('HGETALL', head), string.match(rest(), '^[^/]+')
  for i = 1, #all, 2 do
    local name = string.match(all[i], '^of (.*)$')
    local is_own = name and string.match(name, '^(.*)%.') == process
    if is_own and known == '' and (name == owner and confirmed or all[i + 1]) ~= epoch then
      -- The process knows of no part here: what is left of one was ended, but the server has lost that.
      stale[name] = true
    end
    if is_own and name ~= owner and (stale[name] or mode ~= '-') then
      call('HDEL', head, all[i])
    elseif name then
      owners[#owners + 1] = name
    end
  end
end

local at, joined = 6, 0
if has_events then at = at + ARGV[5] end
local may_be_usual = delay == 0 and not (stale and next(stale))
while may_be_usual and ARGV[at] == 'j' do
  local in_channel, user, info = 'c' .. ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local in_count = 'n' .. user
  local before = call('HMGET', channels, in_channel, in_count, 'w' .. user, 'x' .. ARGV[at + 1])
  may_be_usual = not (before[1] or before[3] or before[4])
  if may_be_usual then
    call('HSET', channels, in_channel, owner .. ' ' .. user, in_count, before[2] and before[2] + 1 or '1')
    call('HSET', users, user, info)
    if tell and not before[2] then tell('j', user, info) end
    at, joined = at + 4, joined + 1
  end
end

local all_were_usual = may_be_usual and not ARGV[at]
local age = found[8] and now - found[8]
local is_kept = age and age >= 0 and age < KEEP_AGAIN
if all_were_usual and is_kept and last == told and over_capacity == 0 and not (owners or claim) then
  if last_text then call('HSET', head, 'last', last_text, 'told', last_text) end
  return {epoch, joined}
end
local results, waits = {}, {}
for i = 1, joined do results[i] = 1 end
if not all_were_usual then
  local match, sub, format = string.match, string.sub, string.format
  local claimant, _, _, grace, _, gone = rest()
  local operations, process, is_gone = {}, match(claimant, '^[^/]+'), {}
  grace = math.max(grace, delay)
  tell = tell or function() end
  for mark, name in string.gmatch(gone, '(%??)([^,]+)') do
    is_gone[name] = mark == '' or call('HGET', head, 'of ' .. name) ~= epoch or nil
  end

  local function remind(user, kind, due)
    local at = #waits
    waits[at + 1], waits[at + 2], waits[at + 3] = user, kind, due - now
    waits[at + 4] = call('HGET', users, user) or ''
  end

  local function wait(user, kind, due)
    call('HSET', channels, 'w' .. user, format('%s%.0f %s', kind, due, owner))
    remind(user, kind, due)
  end

  local function waiting_for(user)
    local kind, due, by = match(call('HGET', channels, 'w' .. user) or '', '^(.)(%d+) (.*)$')
    return kind, tonumber(due or 0), kind and match(by, '^(.*)%.') == process
  end

  local function remind_again(user)
    -- The reply that said so may have been lost.
    local kind, due, is_own = waiting_for(user)
    if is_own then remind(user, kind, due) end
  end

  local function remove(user, is_told)
    local info = call('HGET', users, user)
    call('HDEL', users, user)
    call('HDEL', channels, 'n' .. user, 'w' .. user)
    if info and is_told then tell('l', user, info) end
  end

  local function leave(channel, entry, at_once)
    local user = match(entry, '^%S+ (.*)$')
    call('HDEL', channels, 'c' .. channel)
    if call('HINCRBY', channels, 'n' .. user, -1) > 0 then return end
    call('HDEL', channels, 'n' .. user)
    local kind = waiting_for(user)
    if kind == 'j' then
      -- Nobody was told that this user had come.
      remove(user, false)
    elseif grace > 0 and not at_once then
      -- Other channels of this user may not have been restored yet.
      wait(user, 'l', now + grace)
    else
      remove(user, true)
    end
  end

  local function join(channel, user, info, is_quiet)
    local before = call('HMGET', channels, 'c' .. channel, 'n' .. user, 'w' .. user, 'x' .. channel)
    local is_known = before[1] and match(before[1], '^%S+ (.*)$') == user
    if before[1] and not is_known then leave(channel, before[1]) end
    local count = tonumber(before[2] or 0) + (is_known and 0 or 1)
    call('HSET', channels, 'c' .. channel, owner .. ' ' .. user, 'n' .. user, count)
    call('HSET', users, user, info)
    if before[4] then call('HDEL', channels, 'x' .. channel) end
    if not before[3] then
      if count == 1 and not is_known and not is_quiet then
        if delay > 0 then wait(user, 'j', now + delay) else tell('j', user, info) end
      end
    elseif sub(before[3], 1, 1) == 'l' or is_quiet then
      -- A user who comes back in time never left; one who was here before does not arrive now.
      call('HDEL', channels, 'w' .. user)
    else
      remind_again(user)
    end
  end

  local function ended(channel, entry)
    if is_gone[match(entry, '^%S+')] then return end
    call('HSET', channels, 'x' .. channel, format('%.0f %s', now, match(entry, '^%S+ (.*)$')))
  end

  local function see_to(user)
    -- Whichever process took care of it meanwhile, this one does so again.
    local kind, at = waiting_for(user)
    if kind then wait(user, kind, at) end
    return kind
  end

  function operations.j(channel, user, info)
    join(channel, user, info, false)
    return 1
  end

  local is_quiet
  function operations.r(channel, user, info)
    if call('HDEL', channels, 'x' .. channel) == 1 then return 0 end
    if is_quiet == nil then
      -- If some data was kept, or some time has passed, a missing user may have been announced as having left.
      local data = call('HMGET', head, 'since', 'fresh')
      is_quiet = is_lost and mode == 'q' and data[2] and now - (data[1] or 0) < LATE
      if is_quiet and not found[7] then call('HSET', head, 'doubt', format('%.0f', now + DOUBT)) end
    end
    join(channel, user, info, is_quiet)
    return 1
  end

  function operations.z(_, _, _, stale)
    local all, count = call('HGETALL', channels), 0
    for i = 1, #all, 2 do
      local kind, name, value = sub(all[i], 1, 1), sub(all[i], 2), all[i + 1]
      local by = kind == 'c' and match(value, '^%S+') or kind == 'w' and match(value, ' (.*)$')
      local is_past = by and match(by, '^(.*)%.') == process and (not stale and by ~= owner or stale and stale[by])
      if is_past then
        if kind == 'c' then
          leave(name, value)
        elseif call('HGET', channels, all[i]) == value then
          -- It had been taken care of, but the server has lost that.
          local what, at = match(value, '^(.)(%d+)')
          wait(name, what, tonumber(at))
        end
        count = count + 1
      end
    end
    return count
  end

  function operations.l(channel, user)
    local entry = call('HGET', channels, 'c' .. channel)
    if entry then
      leave(channel, entry)
      return 1
    end
    remind_again(user)
    return 0
  end

  function operations.k(channel)
    local entry = call('HGET', channels, 'c' .. channel)
    if entry then
      ended(channel, entry)
      leave(channel, entry)
      return 1
    end
    local mark = call('HGET', channels, 'x' .. channel)
    if mark then remind_again(match(mark, '^%d+ (.*)$')) end
    return 0
  end

  function operations.u(user)
    local all, count = call('HGETALL', channels), 0
    for i = 1, #all, 2 do
      if sub(all[i], 1, 1) == 'c' and match(all[i + 1], '^%S+ (.*)$') == user then
        ended(sub(all[i], 2), all[i + 1])
        call('HDEL', channels, all[i])
        count = count + 1
      end
    end
    local kind = waiting_for(user)
    remove(user, kind ~= 'j')
    return count
  end

  function operations.w(user)
    local kind, at, is_own = waiting_for(user)
    if not is_own then return 0 end
    if delay > 0 and at < now + delay then
      -- What cancelled it may have been lost, and will have been restored by then.
      wait(user, kind, now + delay)
      return 0
    elseif at > now then
      remind(user, kind, at)
      return 0
    end
    if kind == 'l' then
      remove(user, true)
    else
      call('HDEL', channels, 'w' .. user)
      -- It was postponed because the user may have been there before.
      tell('J', user, call('HGET', users, user))
    end
    return 1
  end

  -- The users with a channel that its process has confirmed in this epoch.
  local certain
  local function is_certain(user)
    if not certain then
      local all, confirmed_by = call('HGETALL', head), {}
      for i = 1, #all, 2 do confirmed_by[all[i]] = all[i + 1] == epoch end
      certain, all = {}, call('HGETALL', channels)
      for i = 1, #all, 2 do
        local by, whose = match(all[i + 1], '^(%S+) (.*)$')
        if sub(all[i], 1, 1) == 'c' and confirmed_by['of ' .. by] then certain[whose] = true end
      end
    end
    return certain[user]
  end

  function operations.c(user, info)
    local present, kind = call('HGET', users, user), waiting_for(user)
    if not present then
      tell('L', user, info)
    elseif kind == 'l' or (not kind and not is_certain(user)) then
      -- The group is told soon that this user has left. Or it was told already, and the server has lost that.
      return 2
    elseif not kind then
      tell('J', user, present)
    end
    return 1
  end

  function operations.J(user, info, left)
    if not see_to(user) and is_lost and call('HEXISTS', users, user) == 1 then wait(user, 'j', now + left) end
    return 1
  end

  function operations.L(user, info, left)
    local kind = waiting_for(user)
    if not is_lost then
      see_to(user)
    elseif kind == 'j' then
      call('HDEL', channels, 'w' .. user)
    elseif call('HEXISTS', users, user) == 0 then
      call('HSET', users, user, info)
      wait(user, 'l', now + math.max(left, delay))
    end
    return 1
  end

  function operations.s()
    local all, changes = call('HGETALL', channels), 0
    for i = 1, #all, 2 do
      local kind, name, value = sub(all[i], 1, 1), sub(all[i], 2), all[i + 1]
      if kind == 'c' and is_gone[match(value, '^%S+')] then
        leave(name, value)
        changes = changes + 1
      elseif kind == 'x' and now - tonumber(match(value, '^%d+')) > ENDED_KEPT then
        call('HDEL', channels, all[i])
      elseif kind == 'w' then
        local what, at, by = match(value, '^(.)(%d+) (.*)$')
        -- It may have changed or disappeared since it was read.
        if is_gone[by] and call('HGET', channels, all[i]) == value then
          wait(name, what, tonumber(at))
          if tonumber(at) <= now then operations.w(name) end
          changes = changes + 1
        end
      end
    end
    for name in pairs(is_gone) do call('HDEL', head, 'of ' .. name) end
    return changes
  end

  function operations.a(number, of)
    local who = match(claim or '', '^(%S+)')
    number = math.min(tonumber(number), last)
    if of ~= epoch or who ~= claimant or number <= told then return 0 end
    for event = told + 1, number do call('HDEL', channels, 'e' .. event) end
    told = number
    return 1
  end

  function operations.e()
    return 1
  end

  if stale and next(stale) then operations.z(nil, nil, nil, stale) end
  for at = at, #ARGV, 4 do
    results[#results + 1] = operations[ARGV[at]](ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  end
end

if last ~= last_before or told ~= told_before then
  last_text = last_text or last
  call('HSET', head, 'last', last_text, 'told', told == last and last_text or told)
end
local reply = {epoch, results, waits, owners or {}, over_capacity, 0}
if last > told then
  local claimant, _, newest, _, _, gone = rest()
  local who, till = string.match(claim or '', '^(%S+) (%d+)$')
  local is_free = not who or who == claimant or now > tonumber(till)
  if not is_free then
    for name in string.gmatch(gone, '[^,]+') do
      is_free = is_free or string.match(name, '^(.*)%.') == string.match(who, '^[^/]+')
    end
  end
  if has_events and not is_free then
    reply[6] = now - tonumber(till) - 1
  elseif has_events then
    call('HSET', head, 'claim', string.format('%s %.0f', claimant, now + CLAIM))
    local from = told
    if who == claimant and known == epoch then from = math.max(told, newest) end
    for event = from + 1, math.min(last, from + MAX_EVENTS) do
      reply[#reply + 1] = call('HGET', channels, 'e' .. event) or ''
    end
    if #reply > 6 then reply[6] = from + 1 end
  end
elseif claim then
  call('HDEL', head, 'claim')
end
if is_kept and all_were_usual then return reply end
if call('EXISTS', users) == 1 then
  call('EXPIRE', users, KEPT)
  call('EXPIRE', head, KEPT)
  call('EXPIRE', channels, KEPT)
  if not is_kept then call('HSET', head, 'kept', string.format('%.0f', now)) end
else
  -- Before EXPIRE, since this may be the last field.
  if found[8] then call('HDEL', head, 'kept') end
  call('EXPIRE', head, KEPT_EMPTY)
  call('EXPIRE', channels, KEPT_EMPTY)
end
return reply
""".replace("MAX_EVENTS", str(MAX_EVENTS))
    .replace("MAX_AT_ONCE", str(MAX_AT_ONCE))
    .replace("CLAIM)", f"{CLAIM})")
    .replace("LATE", str(LATE))
    .replace("DOUBT", str(DOUBT))
    .replace("KEEP_AGAIN", str(KEEP_AGAIN))
    .replace("KEPT_EMPTY", f"'{KEPT_EMPTY}'")
    .replace("ENDED_KEPT", str(ENDED_KEPT * 1000))
    .replace("KEPT)", f"'{KEPT}')")
    .replace("<type join group>", _before_value({"type": "presence.join", "group": None}))
    .replace("<type leave group>", _before_value({"type": "presence.leave", "group": None}))
    .replace("<s>", str(ord("s")))
    .replace("<i>", str(ord("i")))
    .replace("<user>", _before_value({"user": None}))
    .replace("<info>", _before_value({"info": None}))
    .replace("<field>", _before_value({FIELD: None}))
)


def changing(deliver: str = "local function deliver() end") -> Script:
    """
    Return the script for a layer whose groups are told by a Lua function.

    ``deliver``: the text of its definition. It gets the five entries of an event as msgpack, without the header of
    their map, and returns whether they were delivered; if not, a process delivers them later, even if some receivers
    have them. Its keys begin at ``KEYS[4]``, its arguments at ``ARGV[8]``. It may use ``call``, ``time`` (the
    reply to TIME), ``epoch`` and ``last_text`` (the event's number in it), and count in ``over_capacity``.
    """
    return Script(_CHANGE.replace("DELIVER", deliver))


#: For layers whose scripts cannot reach the members of a group.
CHANGE = changing()
