-- The last member of the chain could not serve: say why in OpenAI's words. The texts stand in the route's metadata.
function envoy_on_response(h)
  local headers = h:headers()
  local next = headers:get("x-spillway-next")
  if not next then
    if not headers:get("x-spillway-served-by") then headers:replace("x-spillway-served-by", "none") end
    return
  end
  local answers = h:metadata()
  local answer = answers:get(next) or answers:get("provider")
  headers:remove("x-spillway-next")
  headers:remove("x-spillway-provider-status")
  headers:remove("content-encoding")
  headers:replace(":status", answer["status"])
  headers:replace("content-type", "application/json")
  headers:replace("retry-after", answer["retry_after"])
  headers:replace("x-spillway-served-by", "none")
  headers:replace("x-spillway-reason", answer["code"])
  h:body(true):setBytes(answer["body"])
end
