"""One object of each kind that sets most of its fields, for the reference."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, str] = {
    "MoEDeployment": """\
apiVersion: spillway.dev/v1alpha1
kind: MoEDeployment
metadata:
  name: glm-5
  namespace: chat
spec:
  model:
    name: glm-5
    sources:
      NVFP4: {uri: hf://nvidia/GLM-5-NVFP4}
      FP8: {uri: pvc://weights/glm-5-fp8}
    tokenSecretRef: {name: hf-token}
    cache: {node: true, prefetch: true}
  engine:
    name: vLLM
    overrides: {maxModelLen: 65536}
  minReplicas: 1
  maxReplicas: 8
  placement:
    variants:
    - {pool: blackwell-b200, precision: NVFP4}
    - pool: hopper-h200
      precision: FP8
      parallelism: {strategy: TensorExpert, tensor: 8}
      redundantExperts: 32
  slo: {queueSeconds: 10, timeToFirstToken: 15s, interTokenLatency: 60ms}
  spill:
    providers:
    - {name: zai, model: glm-5}
    - {name: deepinfra, model: glm-5}
    maxShare: "0.5"
  routes:
  - name: premium
    match: {header: {name: x-task-tier, value: premium}}
    to: {provider: anthropic, model: claude-opus-4-6}
  - name: canary
    match: {percent: 5}
    to: {provider: openai, model: gpt-5.4}
  hints:
  - {schedule: "0 8 * * 1-5", timeZone: Europe/Berlin, duration: 2h, minReplicas: 4}
  rollout: {strategy: SpillAssisted}
""",
    "GPUPool": """\
apiVersion: spillway.dev/v1alpha1
kind: GPUPool
metadata:
  name: blackwell-gb300
spec:
  nodeSelector: {nvidia.com/gpu.product: NVIDIA-GB300}
  gpu: {product: GB300, perNode: 4, interconnect: NVL72, rdmaResource: rdma/ib}
  price: {perGPUHour: "3.96", billing: Reserved, reservedGPUs: 36, minimumBilling: 1m}
  capacity: {maxGPUs: 72, provisioningTimeout: 15m}
  topology: {multiNode: LeaderWorkerSet, computeDomain: true}
  nodeCache: {hostPath: /mnt/nvme/spillway, maxGB: 3000}
  allowedNamespaces: [chat, search]
  maxGPUsPerNamespace: 36
  priorityClassName: serving
""",
    "ExternalProvider": """\
apiVersion: spillway.dev/v1alpha1
kind: ExternalProvider
metadata:
  name: openai
spec:
  baseURL: https://api.openai.com/v1
  credentials: {key: openai}
  models:
  - name: gpt-5.4
    price:
      input: "2.50"
      cachedInput: "0.25"
      output: "15.00"
      tiers:
      - {aboveInputTokens: 272000, input: "5.00", cachedInput: "0.50", output: "22.50"}
    contextLength: 1000000
    maxOutputTokens: 8192
    dropFields: [top_k]
    verbosity: "1.2"
  limits: {requestsPerMinute: 500, tokensPerMinute: 2000000, concurrent: 64}
  allowedNamespaces: [chat]
  timeouts: {connect: 2s, firstByte: 60s}
""",
    "CostPolicy": """\
apiVersion: spillway.dev/v1alpha1
kind: CostPolicy
metadata:
  name: assist
spec:
  selector:
    namespaces: [chat, search]
    namespaceSelector: {matchLabels: {team: assist}}
  maxFloorGPUs: 32
  timeZone: Europe/Berlin
  budgets:
  - name: month
    period: Month
    amount: "25000"
    scope: Total
    warnAt: [50, 80, 95]
    atLimit: StopSpillAndScaleToFloor
  - name: api-day
    period: Day
    amount: "400"
    scope: External
    topUps:
    - {amount: "100", reason: launch of the new app, until: "2026-12-01T00:00:00Z"}
  pacing: Even
  spill: {maxShare: "0.3", maxPerHour: "60"}
  valuePerRequest: "0.02"
  whenOperatorLost: LeaseOnly
  enforcement: Enforce
""",
}
