-- Runs in front of a provider with a limit of requests per minute, after all else has let the request pass. The constant
-- is put in by lua.py: RATE (the cluster where rate.lua answers).
local function ask(h, path, asynchronous)
  local head = { [":method"] = "POST", [":path"] = path, [":authority"] = "rate" }
  return h:httpCall(RATE, head, "", 1000, asynchronous)
end

local function state(h)
  return h:streamInfo():dynamicMetadata():get("spillway") or {}
end

function envoy_on_request(h)
  if not state(h).outcome then return end -- this listener answers by itself
  local answer = ask(h, "/take", false)
  if answer and answer[":status"] == "200" then
    h:streamInfo():dynamicMetadata():set("spillway", "rated", true)
    return
  end
  h:respond({ [":status"] = "503", ["x-spillway-next"] = "capped" }, "")
end

function envoy_on_response(h)
  if state(h).rated and h:headers():get("x-spillway-next") == "capped" then ask(h, "/back", true) end
end
