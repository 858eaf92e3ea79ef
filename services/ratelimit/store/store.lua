-- Moves the counters of one frame: everything is computed first, then committed, all inside one call.
--
-- One script in three files, joined: the counters, here; decide.lua; settle.lua, which ends it.
--
-- KEYS     the frame's distinct counters; before them, in a numbered call, the key that keeps its number.
-- ARGV[1]  "decide" or "settle".
-- ARGV[2]  little-endian doubles: the number of limits, each limit's (kind, capacity, unit, window µs, rate,
--          granularity µs, 1 for a shadow + 2 if denied asks count), and then for "decide" the asks:
--          (number of limits, cost, 0 or 1 + the errand, its two numbers if there is one, (key, limit)…)…,
--          for "settle" one (limit, number of values, value…) for each key: a state to add to what is there.
-- ARGV[3]  the number of this call, written down with what it changes so that its sender can tell what a server that was
--          restarted or replaced still knows; empty: not numbered.
-- ARGV[4…] each limit's time to live in ms, and then more counters: those of a cluster's node that lie in other slots than
--          KEYS do. (Redis asks that the KEYS of one call share a slot; a script may use others that are on the node. If
--          one is not, reading it ends the script before anything has been changed.)
--
-- A cost below 0 asks whether as much would pass, and takes nothing.
--
-- Both answer little-endian 64-bit integers: the time in µs, and the number that was written down before, 0 if there was
-- none; "decide" then for each ask (wait µs or -1 allowed or -2 never or -3 unknown, index of the limit that waits longest,
-- 1 if any was violated, (remaining, reset µs; of a violated one -1 - that)…).
--
-- The states and rules are those of model/counters.py; a contract suite holds both to each other. Numbers are doubles:
-- exact below 2^53, which the rules loader sees to.

local FIXED, SLIDING, BUCKET, SLOTS = 1, 2, 3, 4
local ALLOWED, NEVER, UNKNOWN = -1, -2, -3
local TAKE, REFUND, RENEW = 1, 2, 3
local CHUNK = 2000
local NOBODY = struct.pack('<dd', 0, 0)
local NUMBER_LIVES = 7 * 24 * 3600

local pack, unpack_struct, rep, sub = struct.pack, struct.unpack, string.rep, string.sub
local find = string.find
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local unpack = unpack

local function numbers(data)
  local values, count = {}, #data / 8
  if count <= CHUNK then
    values = { unpack_struct('<' .. rep('d', count), data) }
    -- What follows them is the position after the last.
    values[count + 1] = nil
    return values
  end
  for first = 1, count, CHUNK do
    local size = min(CHUNK, count - first + 1)
    local part = { unpack_struct('<' .. rep('d', size), data, (first - 1) * 8 + 1) }
    for i = 1, size do values[first + i - 1] = part[i] end
  end
  return values
end

local function integers(values)
  local parts = {}
  for first = 1, #values, CHUNK do
    local last = min(first + CHUNK - 1, #values)
    parts[#parts + 1] = pack('<' .. rep('i8', last - first + 1), unpack(values, first, last))
  end
  return table.concat(parts)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local input = numbers(ARGV[2])
local kinds, capacities, units, windows, rates, grains, marks = {}, {}, {}, {}, {}, {}, {}
local slotted = false
local at = 2
for l = 1, input[1] do
  kinds[l], capacities[l], units[l] = input[at], input[at + 1], input[at + 2]
  windows[l], rates[l], grains[l] = input[at + 3], input[at + 4], input[at + 5]
  marks[l] = input[at + 6]
  slotted = slotted or kinds[l] == SLOTS
  at = at + 7
end

local names, more = KEYS, 4 + input[1]
local number_key = ARGV[3] ~= '' and table.remove(names, 1)
local raws = {}
for first = 1, #names, CHUNK do
  local found = redis.call('MGET', unpack(names, first, min(first + CHUNK - 1, #names)))
  for i = 1, #found do raws[first + i - 1] = found[i] end
end
for i = more, #ARGV do
  names[#names + 1] = ARGV[i]
  raws[#names] = redis.call('GET', ARGV[i])
end

-- What each counter says now: units taken; newest: the instant of the newest hit of a log; logs: the live part of a log.
local used, newest, logs, bases, added = {}, {}, {}, {}, {}
-- Counters to write, each with the limit it was last seen under.
local changed = {}

local function stamp_of(l)
  local grain = grains[l]
  return now - now % grain + grain - 1
end

-- Entries of a log are 16 bytes: the instant, and the running total up to it. The first one whose field exceeds a value.
local function search(log, field, value)
  local low, high = 1, #log / 16
  while low < high do
    local middle = floor((low + high) / 2)
    if unpack_struct('<d', log, (middle - 1) * 16 + field) > value then high = middle else low = middle + 1 end
  end
  return low
end

local function open_log(k, l, raw)
  local horizon = now - windows[l]
  local last, total = unpack_struct('<dd', raw, #raw - 15)
  if last <= horizon then return end
  local base, log = unpack_struct('<d', raw), sub(raw, 9)
  if unpack_struct('<d', log) <= horizon then
    local first = search(log, 1, horizon)
    base = unpack_struct('<d', log, (first - 1) * 16 - 7)
    log = sub(log, (first - 1) * 16 + 1)
  end
  if last >= now + grains[l] then
    -- Time stepped back. Whatever counts, counts from now; written even when nothing passes, or it would for ever.
    changed[k] = l
    last = stamp_of(l)
    base, total = 0, total - base
    log = pack('<dd', last, total)
  end
  logs[k], bases[k], newest[k], used[k] = log, base, last, total - base
end

-- Places are 24 bytes each, in the order of their deadlines: the deadline, and the hold.
-- (Making a function takes Lua a tenth of what deciding one ask takes: those of rare frames are made in those.)
local open_slots, place_of, leave, enter
if slotted then
  function open_slots(k, l, raw)
    local first, most = 1, now + windows[l]
    while first < #raw and unpack_struct('<d', raw, first) <= now do first = first + 24 end
    local log = sub(raw, first)
    if log ~= '' and unpack_struct('<d', log, #log - 23) > most then
      -- Time stepped back, or the lease became shorter.
      local parts = {}
      for position = 1, #log, 24 do
        parts[#parts + 1] = pack('<d', min(unpack_struct('<d', log, position), most)) .. sub(log, position + 8, position + 23)
      end
      log, changed[k] = table.concat(parts), l
    end
    logs[k], used[k] = log, #log / 24
  end

  function place_of(k, hold)
    local log, from = logs[k] or '', 1
    while true do
      local found = find(log, hold, from, true)
      if not found then return nil end
      if found % 24 == 9 then return found - 8 end
      from = found + 1
    end
  end

  function leave(k, l, place)
    logs[k] = sub(logs[k], 1, place - 1) .. sub(logs[k], place + 24)
    used[k], changed[k] = used[k] - 1, l
  end

  function enter(k, l, hold)
    local place = place_of(k, hold)
    if place then leave(k, l, place) end
    logs[k] = (logs[k] or '') .. pack('<d', now + windows[l]) .. hold
    used[k], changed[k] = used[k] + 1, l
  end
end

local function open(k, l)
  local kind, raw = kinds[l], raws[k]
  used[k] = 0
  if not raw then return end
  if kind == SLIDING then
    open_log(k, l, raw)
  elseif kind == SLOTS then
    open_slots(k, l, raw)
  else
    local when, value = unpack_struct('<dd', raw)
    if kind == FIXED then
      local start = now - now % windows[l]
      if when >= start then used[k] = value end
      if when > start then changed[k] = l end
    else
      if when > now then changed[k] = l end
      used[k] = max(0, value - max(0, now - when) * rates[l])
    end
  end
end

local function wait(k, l, wanted)
  local kind, window = kinds[l], windows[l]
  if kind == FIXED then return window - now % window end
  if kind == BUCKET then return ceil((used[k] + wanted - capacities[l]) / rates[l]) end
  if kind == SLOTS then return UNKNOWN end
  local log, must_go = logs[k], used[k] + wanted - capacities[l]
  if log and used[k] - (added[k] or 0) >= must_go then
    -- Totals are integers: at least `must_go` is more than one less.
    local entry = search(log, 9, bases[k] + must_go - 1)
    return unpack_struct('<d', log, (entry - 1) * 16 + 1) + window - now
  end
  return stamp_of(l) + window - now
end

local function reset(k, l)
  local kind, taken = kinds[l], used[k]
  if taken == 0 then return 0 end
  if kind == SLIDING then return newest[k] + windows[l] - now end
  if kind == FIXED then return windows[l] - now % windows[l] end
  if kind == SLOTS then return unpack_struct('<d', logs[k], #logs[k] - 23) - now end
  return ceil(taken / rates[l])
end

local function save(k, l, ttl)
  local kind = kinds[l]
  local state
  if used[k] == 0 then
    redis.call('DEL', names[k])
    return
  elseif kind == SLIDING then
    local log, last = logs[k] or '', stamp_of(l)
    local base = bases[k] or 0
    if added[k] then
      if log ~= '' and unpack_struct('<d', log, #log - 15) == last then log = sub(log, 1, -17) end
      log = log .. pack('<dd', last, base + used[k])
    end
    state = pack('<d', base) .. log
  elseif kind == SLOTS then
    state = logs[k]
  elseif kind == FIXED then
    state = pack('<dd', now - now % windows[l], used[k])
  else
    state = pack('<dd', now, used[k])
  end
  redis.call('SET', names[k], state, 'PX', ttl)
end
