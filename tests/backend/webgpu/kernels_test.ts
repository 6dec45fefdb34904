/** All kernels against what WebGPU demands of every adapter; no GPU is needed for that. */

import { assert } from "@std/assert";
import { TENSOR_TYPES, type TensorType } from "../../../src/quant/types.ts";
import { LEAST_LIMITS, suiteKernels } from "../_kernels.ts";

const TYPES = (Object.keys(TENSOR_TYPES) as TensorType[]).filter((type) =>
  TENSOR_TYPES[type].kernel !== null
);

/** Bytes of a WGSL type that workgroup memory has. */
function bytesOf(type: string): number {
  const [, element, length] = /^array<(.*), (\d+)>$/s.exec(type) ?? [];
  if (element !== undefined) return Number(length) * bytesOf(element);
  const [, width, scalar] = /^vec([234])<([fui]\w*)>$/.exec(type) ?? [];
  if (width !== undefined) return bytesOf(scalar) * (width === "3" ? 4 : Number(width));
  if (type === "Halves") return 2 * bytesOf("vec4<f16>");
  if (type === "f16") return 2;
  assert(/^([fui]32|atomic<[ui]32>)$/.test(type), `${type} is not known`);
  return 4;
}

function workgroupBytes(code: string): number {
  const constants = new Map(
    [...code.matchAll(/^const (\w+) = (\d+)u;/gm)].map(([, name, value]) => [name, value]),
  );
  return [...code.matchAll(/var<workgroup> \w+: ([^;]*);/g)].reduce((sum, [, type]) => {
    const known = type.replaceAll(/\b[A-Z_]{2,}\b/g, (name) => constants.get(name) ?? name);
    return sum + Math.ceil(bytesOf(known) / 16) * 16;
  }, 0);
}

function threadsOf(code: string): number {
  const [, text] = /@workgroup_size\(([^)]*)\)/.exec(code) ?? [];
  return text.split(",").reduce((product, size) => product * parseInt(size), 1);
}

Deno.test("webgpu kernels: all keep to the buffers, threads and workgroup memory of any adapter", async () => {
  const kernels = await suiteKernels();
  // Ops meet every type, whatever became of what they computed.
  for (const type of TYPES) {
    const has = (kind: string) => kernels.some(({ label }) => label.startsWith(`${kind} ${type} `));
    assert(has("matrixVector"), `no product of ${type}`);
  }
  assert(kernels.some(({ label }) => label.startsWith("half tiles ")), "no tiles of halves");
  for (const { label, code, buffers } of kernels) {
    assert(buffers <= LEAST_LIMITS.maxStorageBuffersPerShaderStage, `${label}: ${buffers} buffers`);
    const [threads, bytes] = [threadsOf(code), workgroupBytes(code)];
    assert(
      threads <= LEAST_LIMITS.maxComputeInvocationsPerWorkgroup,
      `${label}: ${threads} threads`,
    );
    assert(bytes <= LEAST_LIMITS.maxComputeWorkgroupStorageSize, `${label}: ${bytes} bytes`);
  }
});
