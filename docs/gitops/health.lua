-- Argo CD: argocd-cm, key resource.customizations.health.zimage.dev_ZImageService (docs/gitops/README.md).
-- What kstatus says, in Argo CD's words: a test holds the two against each other on every status of a run.
local health = {status = "Progressing", message = "the operator has not judged it yet"}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
local ready, stalled = found.Ready, found.Stalled
if stalled ~= nil and stalled.status == "True" then
  health.status, health.message = "Degraded", stalled.message
elseif ready ~= nil then
  health.message = ready.message
  if ready.status == "True" then
    health.status = ready.reason == "Suspended" and "Suspended" or "Healthy"
  end
end
return health
