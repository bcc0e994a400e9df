-- Why a provider's answer is an error, from its status and, where that leaves it open, from the code in its body.
-- lua.py puts it in front of egress.lua. Errors that a client can bring about must shut nobody out, so codes are
-- read from the fields that providers keep for them, and never searched for in text that may be the client's.

-- The account has no money or no quota left: another request now changes nothing.
local QUOTA = {
  ["insufficient_quota"] = true, ["credit_balance_exhausted"] = true, ["billing_not_active"] = true, -- OpenAI
  ["billing_hard_limit_reached"] = true,
  ["billing_error"] = true, -- Anthropic
  ["1113"] = true, ["1308"] = true, ["1309"] = true, ["1310"] = true, -- Z.ai: balance; plan used up, or at its end
  ["AccountOverdueError"] = true, ["QuotaExceeded"] = true, -- Ark
  ["Arrearage"] = true, ["PrepaidBillOverdue"] = true, ["PostpaidBillOverdue"] = true, -- DashScope
  ["AllocationQuota.FreeTierOnly"] = true,
  ["insufficient_balance"] = true, ["exceeded_current_quota_error"] = true, -- Moonshot
}
local OVERLOADED = {
  ["1305"] = true, ["1312"] = true, ["ServerOverloaded"] = true, ["overloaded_error"] = true,
  ["engine_overloaded_error"] = true,
}
-- The model's name stands in the ExternalProvider: no client can put it right.
local UNKNOWN = {
  ["model_not_found"] = true, ["1211"] = true, ["InvalidEndpointOrModel.NotFound"] = true, ["ModelNotFound"] = true,
}
-- Said with 400 and in words alone; these count from their beginning.
local WORDS = {
  ["^Your credit balance is too low"] = "quota", -- Anthropic
  ["^Model Not Exist"] = "unknown_model", -- DeepSeek
  ["^API key not valid"] = "credentials", -- Google
  ["^Incorrect API key"] = "credentials", -- xAI
}

local READ_BYTES = 65536 -- of an error's body
local LONGEST_WAIT_SECONDS = 3600
local OVERLOADED_WAIT_SECONDS = 2 -- where an overloaded provider does not say how long

local function plain(value)
  if not value then return nil end
  return byte(value, 1) == 34 and sub(value, 2, -2) or value
end

-- codes of an error's body as a list, and its message
local function said(text)
  local found, top = {}, members(text:match("^%s*%[(.*)%]%s*$") or text)
  if not top then return found end
  local inner = top.error and members(top.error) or top
  for _, name in ipairs({ "code", "type", "status" }) do found[#found + 1] = plain(inner[name]) end
  return found, plain(inner.message)
end

local function any(codes, known)
  for _, code in ipairs(codes) do
    if known[code] then return true end
  end
  return false
end

-- whether its body can say more than its status
local function is_open(status)
  return status == 400 or status == 403 or status == 429
end

local function why_failed(status, codes, message)
  if status == 402 or any(codes, QUOTA) then return "quota" end
  if status == 400 then
    for words, why in pairs(WORDS) do
      if message and find(message, words) then return why end
    end
    return any(codes, UNKNOWN) and "unknown_model" or "rejected"
  end
  -- Google says it in words; either way nothing more is sent, so words may decide here.
  if status == 403 and message and find(message, "illing") then return "quota" end
  if status == 401 then return "credentials" end
  if status == 403 then return "forbidden" end -- the key lacks a right, or this one request does
  if status == 404 then return "unknown_model" end
  if status == 429 then return any(codes, OVERLOADED) and "overloaded" or "throttled" end
  if status == 529 then return "overloaded" end
  if status < 400 or status == 408 or status == 409 or status >= 500 then return "unavailable" end
  return "rejected"
end

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12 }

-- Unix seconds of an HTTP date ("Wed, 21 Oct 2026 07:28:00 GMT"), or nil
local function http_date(text)
  local day, name, year, hour, minute, second =
    text:match("^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$")
  local month = MONTHS[name]
  if not month then return nil end
  local y = tonumber(year) - (month <= 2 and 1 or 0) -- years begin in March: the leap day is their last
  local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400)
  days = days + math.floor((153 * ((month + 9) % 12) + 2) / 5) + tonumber(day) - 719469
  return ((days * 24 + tonumber(hour)) * 60 + tonumber(minute)) * 60 + tonumber(second)
end

-- Seconds that a provider asks to be left alone, or nil: at most an hour.
local function asked_wait(headers, now)
  local ms, after = tonumber(headers:get("retry-after-ms") or ""), headers:get("retry-after")
  local wait = ms and ms / 1000
  if not wait and after then
    local date = http_date(after)
    wait = tonumber(after) or date and date - now
  end
  if not wait or not (wait > 0) then return nil end -- also not a number
  return math.min(wait, LONGEST_WAIT_SECONDS)
end
