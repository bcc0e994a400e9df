-- Answers 200 to as many requests a minute as this process may send to one provider (the route's `per_minute`), else
-- 429. A token bucket: in no 60 seconds more than that, and no more than a tenth of it at once. It begins empty, since
-- a process that was here a moment ago may have used the minute up. A gateway has one worker, so this is its only one.
local tokens, filled = 0, nil

function envoy_on_request(h)
  local per_minute = h:metadata():get("per_minute") or 0
  local burst = per_minute > 0 and math.max(1, math.floor(per_minute / 10)) or 0
  local now = tonumber(h:timestamp()) / 1000
  local passed = filled and math.max(0, now - filled) or 0 -- a clock may be set back
  filled = now
  tokens = math.min(burst, tokens + passed * (per_minute + 1 - burst) / 60)
  if h:headers():get(":path") == "/back" then -- of a request that was not sent after all
    tokens = math.min(burst, tokens + 1)
  elseif tokens >= 1 then
    tokens = tokens - 1
  else
    h:respond({ [":status"] = "429" }, "")
    return
  end
  h:respond({ [":status"] = "200" }, "")
end
