-- Moves the counters of one frame: everything is computed first, then committed, all inside one call.
--
-- KEYS     the frame's distinct counters.
-- ARGV[1]  "decide" or "settle".
-- ARGV[2]  little-endian doubles: the number of limits, each limit's (kind, capacity, unit, window µs, rate,
--          granularity µs), and then for "decide" the asks: (number of limits, cost, (key, limit)…)…,
--          for "settle" one (limit, at least, number of values, value…) for each key: a state to add to what is there,
--          or, when "at least" is 1, to put in its place if it has taken more.
-- ARGV[3…] each limit's time to live in ms.
--
-- "decide" answers little-endian 64-bit integers: the time in µs, and for each ask (wait µs or -1 allowed or -2 never,
-- index of the limit that waits longest, (remaining, reset µs)…). "settle" answers nothing but the time.
--
-- The states and rules are those of model/counters.py; a contract suite holds both to each other. Numbers are doubles:
-- exact below 2^53, which the rules loader sees to.

local FIXED, SLIDING, BUCKET = 1, 2, 3
local ALLOWED, NEVER = -1, -2
local CHUNK = 2000

local pack, unpack_struct, rep, sub = struct.pack, struct.unpack, string.rep, string.sub
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local unpack = unpack

local function numbers(data)
  local values, count = {}, #data / 8
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
local kinds, capacities, units, windows, rates, grains = {}, {}, {}, {}, {}, {}
local at = 2
for l = 1, input[1] do
  kinds[l], capacities[l], units[l] = input[at], input[at + 1], input[at + 2]
  windows[l], rates[l], grains[l] = input[at + 3], input[at + 4], input[at + 5]
  at = at + 6
end

local raws = {}
for first = 1, #KEYS, CHUNK do
  local found = redis.call('MGET', unpack(KEYS, first, min(first + CHUNK - 1, #KEYS)))
  for i = 1, #found do raws[first + i - 1] = found[i] end
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

local function open(k, l)
  local kind, raw = kinds[l], raws[k]
  used[k] = 0
  if not raw then return end
  if kind == SLIDING then
    open_log(k, l, raw)
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
  return ceil(taken / rates[l])
end

local function save(k, l, ttl)
  local kind = kinds[l]
  local state
  if kind == SLIDING then
    local log, last = logs[k] or '', stamp_of(l)
    local base = bases[k] or 0
    if log ~= '' and unpack_struct('<d', log, #log - 15) == last then log = sub(log, 1, -17) end
    state = pack('<d', base) .. log .. pack('<dd', last, base + used[k])
  elseif kind == FIXED then
    state = pack('<dd', now - now % windows[l], used[k])
  else
    state = pack('<dd', now, used[k])
  end
  redis.call('SET', KEYS[k], state, 'PX', ttl)
end

local function decide()
  local out, size = { now }, #input
  local n = 1
  while at <= size do
    local count, cost = input[at], input[at + 1]
    local needed = max(cost, 1)
    local verdict, slowest = ALLOWED, 0
    for i = 0, count - 1 do
      local k, l = input[at + 2 + 2 * i], input[at + 3 + 2 * i]
      if not used[k] then open(k, l) end
      local wanted = needed * units[l]
      if used[k] + wanted > capacities[l] and verdict ~= NEVER then
        local its = wanted > capacities[l] and NEVER or wait(k, l, wanted)
        if its == NEVER or its > verdict then verdict, slowest = its, i end
      end
    end
    out[n + 1], out[n + 2] = verdict, slowest
    n = n + 2
    for i = 0, count - 1 do
      local k, l = input[at + 2 + 2 * i], input[at + 3 + 2 * i]
      if verdict == ALLOWED and cost > 0 then
        local taken = cost * units[l]
        used[k], changed[k] = used[k] + taken, l
        if kinds[l] == SLIDING then
          newest[k], added[k] = stamp_of(l), (added[k] or 0) + taken
        end
      end
      out[n + 1] = floor(max(0, capacities[l] - used[k]) / units[l])
      out[n + 2] = reset(k, l)
      n = n + 2
    end
    at = at + 2 + 2 * count
  end
  for k, l in pairs(changed) do save(k, l, ARGV[l + 2]) end
  return integers(out)
end

-- Two logs as one, in order. `values` is a dump: 0, then instants with running totals.
local function merge_logs(k, values)
  local entries, log, before = {}, logs[k] or '', bases[k] or 0
  for position = 1, #log, 16 do
    local when, total = unpack_struct('<dd', log, position)
    entries[#entries + 1] = { when, total - before }
    before = total
  end
  before = 0
  for i = 2, #values, 2 do
    entries[#entries + 1] = { values[i], values[i + 1] - before }
    before = values[i + 1]
  end
  table.sort(entries, function(a, b) return a[1] < b[1] end)
  local parts, total = { pack('<d', 0) }, 0
  for i, entry in ipairs(entries) do
    total = total + entry[2]
    if not entries[i + 1] or entries[i + 1][1] ~= entry[1] then parts[#parts + 1] = pack('<dd', entry[1], total) end
  end
  return table.concat(parts)
end

local function settle_log(k, l, at_least, values)
  if at_least and values[#values] <= used[k] then return end
  if at_least then logs[k] = nil end
  redis.call('SET', KEYS[k], merge_logs(k, values), 'PX', ARGV[l + 2])
end

local function settle_count(k, l, at_least, when, value)
  local ttl = ARGV[l + 2]
  if kinds[l] == FIXED then
    if when < now - now % windows[l] then return end
  else
    value = max(0, value - max(0, now - when) * rates[l])
  end
  used[k] = at_least and max(used[k], value) or used[k] + value
  if kinds[l] == BUCKET then ttl = string.format('%.0f', ceil(used[k] / rates[l] / 1000) + 1000) end
  save(k, l, ttl)
end

local function settle()
  for k = 1, #KEYS do
    local l, at_least, size = input[at], input[at + 1] == 1, input[at + 2]
    local values = { unpack(input, at + 3, at + 2 + size) }
    at = at + 3 + size
    open(k, l)
    if kinds[l] == SLIDING then
      settle_log(k, l, at_least, values)
    else
      settle_count(k, l, at_least, values[1], values[2])
    end
  end
  return integers({ now })
end

if ARGV[1] == 'decide' then return decide() end
return settle()
