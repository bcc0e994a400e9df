-- Runs in front of one (provider, model). The constants are put in by lua.py:
-- MODEL (JSON string), MAX_TOKENS, MAX_CHOICES, DROP (set of field names), and where the price has tiers LEAST_SIZED
-- and MOST_SIZED (bytes), else nil.
-- It bounds what the request may cost, and lets nothing of the client's out but the request itself.

local ALLOWED = {
  ["content-type"] = true, ["accept"] = true, ["content-length"] = true, ["transfer-encoding"] = true,
}
local TOKEN_FIELDS = {
  ["/v1/chat/completions"] = { "max_tokens", "max_completion_tokens" },
  ["/v1/completions"] = { "max_tokens" },
  ["/v1/responses"] = { "max_output_tokens" },
}

-- more than one prompt in one request: each would cost up to the cap of one
local function is_batch(prompt)
  local _, i = find(prompt, '^%[%s*')
  if not i then return false end
  local c = byte(prompt, i + 1)
  if c ~= 34 and c ~= 91 then return false end
  local value_end = after_value(prompt, i + 1)
  return not value_end or find(prompt, "^%s*,", value_end) ~= nil
end

local function cap(values, names, field, limit)
  local given = tonumber(values[field])
  if given and given >= 1 and given <= limit then return end
  if values[field] == nil then names[#names + 1] = field end
  values[field] = tostring(limit)
end

-- A provider that breaks off so soon after the request has computed nothing of an answer.
local AT_ONCE_MS = 200

-- The size of a request at most, in 16 steps from one power of two to the next and only where it can matter for the
-- tier: few enough to count by. 0: nobody knows.
local function size_class(bytes)
  if bytes > MOST_SIZED then return "0" end
  bytes = math.max(bytes, LEAST_SIZED)
  local step = 2 ^ (math.floor(math.log(bytes) / math.log(2)) - 4)
  return string.format("%d", math.ceil(bytes / step) * step)
end

-- Until when this provider asked to be left alone, in ms since 1970. A gateway has one worker, and so one of it.
local held_until = 0

local function seconds_held(now_ms)
  return now_ms < held_until and math.ceil((held_until - now_ms) / 1000) or nil
end

function envoy_on_request(h)
  if not h:metadata():get("permitted") then return end
  local held = seconds_held(h:timestamp())
  if held then
    h:streamInfo():dynamicMetadata():set("spillway", "why", "held")
    h:respond({ [":status"] = "503", ["x-spillway-next"] = "provider", ["retry-after"] = tostring(held) }, "")
    return
  end
  local headers = h:headers()
  local path = headers:get(":path"):match("^[^?]*")
  local encoding = headers:get("content-encoding")
  local out = {}
  for name, _ in pairs(headers) do
    if sub(name, 1, 1) ~= ":" and not ALLOWED[name] then out[#out + 1] = name end
  end
  for _, name in ipairs(out) do headers:remove(name) end
  headers:replace("user-agent", "spillway")
  headers:replace(":path", path)
  if encoding then return refuse(h, "415", "A compressed request body is not supported.") end

  local body = h:body()
  local values, names
  local bytes = body and body:length() or 0
  if body then values, names = members(body:getBytes(0, bytes)) end
  if not values then return refuse(h, "400", "The request body is not a JSON object with plain field names.") end
  if path == "/v1/completions" and values.prompt and is_batch(values.prompt) then
    h:respond({ [":status"] = "503", ["x-spillway-next"] = "not-permitted" }, "")
    return
  end

  values.model = MODEL
  if not find("\n" .. table.concat(names, "\n") .. "\n", "\nmodel\n", 1, true) then names[#names + 1] = "model" end
  local fields = TOKEN_FIELDS[path]
  if fields then
    local present = false
    for _, field in ipairs(fields) do
      if values[field] and values[field] ~= "null" then
        cap(values, names, field, MAX_TOKENS)
        present = true
      end
    end
    if not present then cap(values, names, fields[1], MAX_TOKENS) end
    for _, field in ipairs({ "n", "best_of" }) do
      if values[field] and values[field] ~= "null" then cap(values, names, field, MAX_CHOICES) end
    end
    if values.stream == "true" and path ~= "/v1/responses" then
      if values.stream_options == nil then names[#names + 1] = "stream_options" end
      values.stream_options = '{"include_usage":true}'
    end
  end
  for name in pairs(DROP) do values[name] = nil end
  body:setBytes(object(values, names))

  -- "unmetered" until usage is seen: an aborted request was not free. Usage that leaves out the completion of a path
  -- that has one is none: below zero, nothing is counted.
  local metadata = h:streamInfo():dynamicMetadata()
  metadata:set("spillway", "prompt", 0)
  metadata:set("spillway", "completion", fields and -1 or 0)
  metadata:set("spillway", "cached", 0)
  metadata:set("spillway", "cache_write", 0)
  metadata:set("spillway", "outcome", "unmetered")
  metadata:set("spillway", "answer", values.stream == "true" and "stream" or "json")
  metadata:set("spillway", "began", tonumber(h:timestamp()))
  if MOST_SIZED then metadata:set("spillway", "size", ":" .. size_class(bytes)) end
end

-- The text of an error's body, if it is one that can be read. It is held back until it is complete; one that is larger
-- than what a request may have becomes a 500 that listeners.py sends on.
local function error_text(h)
  if (tonumber(h:headers():get("content-length") or "") or 0) > READ_BYTES then return "" end
  local body = h:body()
  return body and body:getBytes(0, math.min(body:length(), READ_BYTES)) or ""
end

function envoy_on_response(h)
  local headers = h:headers()
  local status = tonumber(headers:get(":status"))
  local metadata = h:streamInfo():dynamicMetadata()
  local mine = metadata:get("spillway")
  if not mine or not mine["outcome"] then return end -- this listener's own answer; no provider was asked
  local next = headers:get("x-spillway-next")
  if status >= 200 and status < 300 then
    local kind = headers:get("content-type") or ""
    if find(kind, "^application/json") then
      headers:replace("content-type", "application/json")
      metadata:set("spillway", "answer", "json")
    elseif find(kind, "^text/event%-stream") then
      headers:replace("content-type", "text/event-stream")
      metadata:set("spillway", "answer", "stream")
      metadata:set("spillway", "streamed", "yes")
    end
    return
  end
  -- A provider that took the request and then broke off may bill what it computed.
  local broken = headers:get("x-spillway-unanswered") and h:timestamp() - mine["began"] >= AT_ONCE_MS
  headers:remove("x-spillway-unanswered")
  metadata:set("spillway", "outcome", broken and "unanswered" or next == "capped" and "capped" or "refused")
  if next == "capped" then return end
  local why = next and "unavailable" or why_failed(status, {})
  metadata:set("spillway", "why", why)
  if next then return end
  if is_open(status) then
    why = why_failed(status, said(error_text(h)))
    headers = h:headers() -- the body was waited for: what was had before is void
    h:streamInfo():dynamicMetadata():set("spillway", "why", why)
  end
  if why == "rejected" then return end -- the client's own fault, and for it to read
  local wait
  if why == "throttled" or why == "overloaded" or why == "unavailable" then
    wait = asked_wait(headers, h:timestamp() / 1000) or why == "overloaded" and OVERLOADED_WAIT_SECONDS
  end
  if wait then held_until = math.max(held_until, h:timestamp() + 1000 * wait) end
  local held = seconds_held(h:timestamp())
  headers:remove("retry-after")
  if held then headers:replace("retry-after", tostring(held)) end
  headers:replace("x-spillway-provider-status", tostring(status))
  headers:replace("x-spillway-next", "provider")
  headers:replace(":status", "503")
end
