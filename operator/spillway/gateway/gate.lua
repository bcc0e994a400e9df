-- An engine's 503 at its own admission limit: every replica that was tried gave it, so the replicas are saturated.
function envoy_on_response(h)
  local headers = h:headers()
  if headers:get(":status") == "503" and not headers:get("x-spillway-next") then
    headers:replace("x-spillway-next", "saturated")
  end
end
