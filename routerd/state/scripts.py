"""The two Lua scripts of the Redis counters. Each runs alone in the server: nothing comes between looking and taking.

The clock is the server's (TIME), so hosts need not agree on theirs. What the keys hold, by form of charge:
  s  sliding: a hash `w` (bucket width, us) and bucket number -> used; rules as in `window`
  c  calendar: a hash `t` (used), `b` (since when that counts), `e` (end), in seconds of Unix time; rules as in `calendar`
  p  bucket: a hash `l` (level), `at` (us); rules as in `pace`
  h  held: a sorted set of leases by the moment they lapse, so that a host that died holds nothing for long
  and under `{routerd}:hosts` the hosts that live, likewise: CORRECT returns how many
A sliding window that becomes a calendar one, or the other way, goes on with what it held. Every key expires when it says nothing.
"""

from __future__ import annotations

__all__ = ["CORRECT", "TAKE"]

_COMMON = """
local T = redis.call('TIME')
local sec = tonumber(T[1])
local now = sec * 1000000 + tonumber(T[2])
local function int(x) return string.format('%.0f', x) end

local function days(y, m)  -- days from 1970-01-01 to the first of a month, by the civil calendar
  if m <= 2 then y = y - 1 end
  local era = math.floor(y / 400)
  local yoe = y - era * 400
  local doy = math.floor((153 * ((m + 9) % 12) + 2) / 5)
  return era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468
end

local function month(s)
  local z = math.floor(s / 86400) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local m = mp + 3
  if m > 12 then m = m - 12 end
  local y = yoe + era * 400
  if m <= 2 then y = y + 1 end
  local ny, nm = y, m + 1
  if nm > 12 then ny, nm = y + 1, 1 end
  return days(y, m) * 86400, days(ny, nm) * 86400
end

local function bounds(word, s)
  if word == 'month' then return month(s) end
  local len = ({hour = 3600, day = 86400, week = 604800})[word]
  local shift = word == 'week' and 259200 or 0
  local b = math.floor((s + shift) / len) * len - shift
  return b, b + len
end

local function cells(key)  -- the hash as a table; bucket numbers as numbers
  local flat = redis.call('HGETALL', key)
  local h = {}
  for i = 1, #flat, 2 do h[tonumber(flat[i]) or flat[i]] = tonumber(flat[i + 1]) end
  return h
end

local function slid(h)  -- what a sliding hash counts now
  local w, total = h.w, 0
  local head = math.floor(now / w)
  for b, v in pairs(h) do
    if type(b) == 'number' and b > head - 33 then total = total + v end
  end
  return total
end

local function begin_slide(key, w, total)
  redis.call('DEL', key)
  redis.call('HSET', key, 'w', int(w))
  if total > 0 then redis.call('HSET', key, int(math.floor(now / w)), int(total)) end
  redis.call('PEXPIRE', key, int(math.ceil(w * 34 / 1000)))
end
"""

TAKE = (
    _COMMON
    + """
local function sliding(key, w)
  local h, head = cells(key), math.floor(now / w)
  if h.w ~= w then
    local total = 0
    if h.w then total = slid(h) elseif h.e and h.e > sec then total = h.t or 0 end
    if h.w or h.e then begin_slide(key, w, total) end
    return total, {[head] = total}
  end
  for b in pairs(h) do
    if type(b) == 'number' and b <= head - 33 then redis.call('HDEL', key, int(b)) end
  end
  return slid(h), h
end

local function calendar(key, word)
  local h = cells(key)
  local b, e = bounds(word, sec)
  local t
  if h.w then
    t = slid(h)
    redis.call('DEL', key)
    redis.call('HSET', key, 't', int(t), 'b', sec, 'e', e)
  elseif not h.e or h.e <= sec then
    t = 0
    redis.call('HSET', key, 't', 0, 'b', b, 'e', e)
  else
    t = h.t
    if h.e ~= e and sec >= h.b then redis.call('HSET', key, 'e', e) else e = h.e end
  end
  redis.call('EXPIREAT', key, e + 60)
  return t, e
end

local function paced(key, size, drain)
  local h = redis.call('HMGET', key, 'l', 'at')
  if not h[1] then return 0 end
  return math.max(0, tonumber(h[1]) - math.max(0, now - tonumber(h[2])) * size / drain)
end

local refused, longest, looks = -1, 0, {}
for i = 1, #KEYS do
  local a = (i - 1) * 6
  local form, limit, amount, enforced, p = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), ARGV[a + 4], ARGV[a + 5]
  local key, used, more = KEYS[i], 0, nil
  if form == 's' then used, more = sliding(key, tonumber(p))
  elseif form == 'c' then used, more = calendar(key, p)
  elseif form == 'p' then more = paced(key, limit, tonumber(p)); used = math.ceil(more - 0.000001)
  else redis.call('ZREMRANGEBYSCORE', key, '-inf', now); used = redis.call('ZCARD', key) end
  local look = {used = used, more = more, over = 0}
  looks[i] = look
  if used + amount > limit then
    local wait = 1000000
    if amount > limit then wait = 4611686018427387904
    elseif form == 's' then
      local w, excess = tonumber(p), used + amount - limit
      local head = math.floor(now / w)
      for b = head - 32, head do
        excess = excess - (more[b] or 0)
        if excess <= 0 then wait = math.max(1, (b + 33) * w - now + 1); break end
      end
    elseif form == 'c' then wait = more * 1000000 - now
    elseif form == 'p' then wait = math.max(1, math.ceil((more + amount - limit) * tonumber(p) / limit)) end
    if enforced == '0' then look.over = 1
    elseif wait > longest then refused, longest = i - 1, wait end
  end
end

local answer = {refused, int(longest)}
for i = 1, #KEYS do
  local a, look, key, stamp = (i - 1) * 6, looks[i], KEYS[i], 0
  local form, limit, amount, p = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), ARGV[a + 5]
  if refused < 0 then
    if form == 's' then
      local w = tonumber(p)
      stamp = math.floor(now / w)
      redis.call('HSET', key, 'w', int(w))
      redis.call('HINCRBY', key, int(stamp), int(amount))
      redis.call('PEXPIRE', key, int(math.ceil(w * 34 / 1000)))
    elseif form == 'c' then
      stamp = sec
      redis.call('HINCRBY', key, 't', int(amount))
    elseif form == 'p' then
      local level, drain = look.more + amount, tonumber(p)
      redis.call('HSET', key, 'l', string.format('%.17g', level), 'at', int(now))
      redis.call('PEXPIRE', key, int(math.min(level * drain / limit / 1000 + 1000, 315360000000)))
    else
      redis.call('ZADD', key, int(now + tonumber(p)), ARGV[a + 6])
      redis.call('PEXPIRE', key, int(tonumber(p) / 1000 + 1000))
    end
    look.used = look.used + amount
  end
  answer[#answer + 1] = int(look.used)
  answer[#answer + 1] = int(stamp)
  answer[#answer + 1] = look.over
end
return answer
"""
)

CORRECT = (
    _COMMON
    + """
local answer = #KEYS
for i = 1, #KEYS do
  local a, key = (i - 1) * 3, KEYS[i]
  local form, stamp, delta = ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3])
  if form == 'free' then redis.call('ZREM', key, stamp)
  elseif form == 'host' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    redis.call('ZADD', key, int(now + delta), stamp)
    redis.call('PEXPIRE', key, int(delta / 1000 + 1000))
    answer = redis.call('ZCARD', key)
  elseif form == 'hold' then
    redis.call('ZADD', key, int(now + delta), stamp)
    redis.call('PEXPIRE', key, int(delta / 1000 + 1000))
  elseif form == 'p' then
    local l = redis.call('HGET', key, 'l')
    if l or delta > 0 then
      redis.call('HSET', key, 'l', string.format('%.17g', math.max(0, tonumber(l or 0) + delta)))
      redis.call('HSETNX', key, 'at', int(now))
      if delta > 0 then redis.call('PEXPIRE', key, 86400000) end
    end
  else
    local h = redis.call('HMGET', key, 'w', 'e', 'b', form == 's' and stamp or 't')
    if delta > 0 and h[1] then
      redis.call('HINCRBY', key, int(math.floor(now / tonumber(h[1]))), int(delta))
    elseif delta > 0 and h[2] then redis.call('HINCRBY', key, 't', int(delta))
    elseif delta < 0 and h[4] and ((form == 's' and h[1]) or (form == 'c' and h[2] and tonumber(stamp) >= tonumber(h[3]))) then
      redis.call('HINCRBY', key, form == 's' and stamp or 't', int(-math.min(tonumber(h[4]), -delta)))
    end
  end
end
return answer
"""
)
