"""
What Lua does to the stream of a group: record a message, read from a position. Text only, no I/O.

An entry has a field ``h``, and ``m`` with the message unless the entry is a mark: one is written where somebody asks
for the newest position of a stream that has none in this epoch, so that "nothing yet" is a position too. ``h`` reads
``epoch predecessor total before``: the epoch in which the entry was written; the ID and the epoch of the entry before
it (``-`` for the first); the bytes of all entries so far, this one among them; and those of the entries that were
already gone when that was last looked at. What is read from a position on is complete if each entry names the one
before it as its predecessor (``streams`` looks at that).

The ID of a stream's first entry has a random number behind its milliseconds: two streams of one key, of which the first
was deleted, have no position in common.
"""

from __future__ import annotations

from ..connection.script import Script

#: Bytes that an entry is taken to have beside its message.
OVERHEAD = 100

_NEWEST = """
local function newest(key)
  local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', '1')[1]
  if not entry then return nil, nil, 0, 0 end
  local epoch, total, before = string.match(entry[2][2] or '', '^(%x+) %S+ (%d+) (%d+)$')
  return entry[1], epoch or '?', tonumber(total or 0), tonumber(before or 0)
end

local function head(epoch, last, last_epoch, total, before)
  return epoch .. ' ' .. (last and last .. '-' .. last_epoch or '-') .. ' ' .. total .. ' ' .. before
end

local function first_id(seed)
  local now = redis.call('TIME')
  return string.format('%d%03d-%s', now[1], math.floor(now[2] / 1000), seed)
end

local function add(key, last, seed, size, ...)
  local id = last and '*' or first_id(seed)
  local added = redis.pcall('XADD', key, 'MAXLEN', '~', size, id, ...)
  if type(added) == 'table' and not last and string.find(added.err, 'equal or smaller', 1, true) then
    -- All entries of a stream were deleted, and it remembers the last ID.
    added = redis.pcall('XADD', key, 'MAXLEN', '~', size, '*', ...)
  end
  return added
end
"""

#: Gives a Lua function ``record(key, at)`` for a script that records. ARGV from ``at`` on: messages kept; bytes kept;
#: seconds of idleness; the end of the position (digest of the group, epoch); a random number for the first entry; the
#: ID that the sender proposes, empty for the server to choose; the message. It returns the position as text; nil and
#: the newest ID where the proposed one is not newer; nil, nil and an error reply where something is wrong.
#: For a script that records several messages of one stream there is ``append(key, state, at, id, body)``, which returns
#: the same, and takes the time of idleness as not begun: ``state`` is a table of what ``newest`` returns, and kept up
#: to date; ``at`` is as above.
RECORD = (
    _NEWEST
    + """
local function drop_oldest(key, total, most)
  local before
  for _ = 1, 1000 do
    local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', '1')[1]
    if not oldest then return total end
    before = tonumber(string.match(oldest[2][2] or '', ' (%d+) %d+$') or 0) - OVERHEAD - #(oldest[2][4] or '')
    if total - before <= most then return before end
    redis.call('XDEL', key, oldest[1])
  end
  return before
end

local function last_id(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then return info[at + 1] end
  end
end

local function append(key, state, at, id, body)
  local size, most, tail = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 3]
  local last, last_epoch, total, before = state[1], state[2], state[3], state[4]
  local bytes = #body + OVERHEAD
  if total + bytes - before > most then before = drop_oldest(key, total, most - bytes) end
  local epoch = string.sub(tail, -8)
  local line = head(epoch, last, last_epoch, total + bytes, before)
  local added
  if id == '' then
    added = add(key, last, ARGV[at + 4], size, 'h', line, 'm', body)
  else
    added = redis.pcall('XADD', key, 'MAXLEN', '~', size, id, 'h', line, 'm', body)
  end
  if type(added) == 'table' then
    if string.find(added.err, 'equal or smaller', 1, true) then
      return nil, last or last_id(key) or '0-0'
    end
    return nil, nil, added
  end
  state[1], state[2], state[3], state[4] = added, epoch, total + bytes, before
  local milliseconds, number = string.match(added, '(%d+)-(%d+)')
  return string.format('%013d-%010d-', milliseconds, number) .. tail
end

local function record(key, at)
  local position, newer, wrong = append(key, {newest(key)}, at, ARGV[at + 5], ARGV[at + 6])
  if position then redis.call('EXPIRE', key, ARGV[at + 2]) end
  return position, newer, wrong
end
"""
).replace("OVERHEAD", str(OVERHEAD))

#: Gives a Lua function ``read(key, at)`` for a script that reads. ARGV from ``at`` on: messages kept; seconds of
#: idleness; the end of the position; a random number for the first entry; the ID behind which to read, empty for the
#: newest messages; how many messages at most, empty for all. Behind an ID these are the oldest, in their order; else
#: the newest and one more, from the newest to the oldest. It returns the ID of the newest entry, which is of this
#: epoch, and the entries.
READ = (
    _NEWEST
    + """
local function read(key, at)
  local epoch, since, limit = string.sub(ARGV[at + 2], -8), ARGV[at + 4], tonumber(ARGV[at + 5])
  local last, last_epoch, total, before = newest(key)
  if last_epoch ~= epoch then
    last = add(key, last, ARGV[at + 3], ARGV[at], 'h', head(epoch, last, last_epoch, total + OVERHEAD, before))
    if type(last) == 'table' then return last end
  end
  redis.call('EXPIRE', key, ARGV[at + 1])
  local entries, found, from = {}, 0, since == '' and '+' or '(' .. since
  if limit and since == '' then limit = limit + 1 end
  while not limit or found < limit do
    local count = math.min(limit and limit - found or 1000, 1000)
    local part
    if since == '' then
      part = redis.call('XREVRANGE', key, from, '-', 'COUNT', count)
    else
      part = redis.call('XRANGE', key, from, '+', 'COUNT', count)
    end
    for _, entry in ipairs(part) do
      entries[#entries + 1] = entry
      if entry[2][3] then found = found + 1 end
    end
    if #part < count then break end
    from = '(' .. part[#part][1]
  end
  return {last, entries}
end
"""
).replace("OVERHEAD", str(OVERHEAD))

#: KEYS: the stream. ARGV: as ``read`` takes it.
READ_ONLY = Script(READ + "return read(KEYS[1], 1)")
