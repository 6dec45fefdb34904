/**
 * Packing on the device, against what the host packs: the same bits, wherever rows lie in a weight and in
 * whatever pieces they come.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { TensorData } from "../../../src/backend/backend.ts";
import { GpuAllocator } from "../../../src/backend/webgpu/allocator.ts";
import { type Gpu, openGpu } from "../../../src/backend/webgpu/device.ts";
import {
  layoutOf,
  packRows,
  type RowLayout,
  Scratch,
} from "../../../src/backend/webgpu/host_packing.ts";
import { Kernels } from "../../../src/backend/webgpu/kernel.ts";
import type { GpuWeight, WeightPart } from "../../../src/backend/webgpu/memory.ts";
import { Packing } from "../../../src/backend/webgpu/packing.ts";
import { Reader } from "../../../src/backend/webgpu/reader.ts";
import { Uploader } from "../../../src/backend/webgpu/upload.ts";
import { planeBytes } from "../../../src/backend/webgpu/weights/format.ts";
import { formatOf } from "../../../src/backend/webgpu/weights/formats.ts";
import { FormatError } from "../../../src/errors.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../../src/quant/types.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../../support/gpu.ts";
import { blocks, HALVES, tensorOf } from "./_blocks.ts";

const TYPES = [...Object.keys(HALVES), "MXFP4"] as TensorType[];

/** Counts how often there was memory for rows of a file, which only packing on the device takes. */
class Allocator extends GpuAllocator {
  workspaces = 0;

  override allocate(...[kind, bytes, purpose]: Parameters<GpuAllocator["allocate"]>): GPUBuffer {
    if (kind === "workspace") this.workspaces++;
    return super.allocate(kind, bytes, purpose);
  }
}

interface Device {
  readonly gpu: Gpu;
  readonly allocator: Allocator;
  readonly context: { allocator: Allocator; kernels: Kernels; maxBinding: number };
  readonly read: Reader["read"];
}

function onDevice(
  name: string,
  body: (device: Device, t: Deno.TestContext) => Promise<void>,
  { maxBytes = Infinity, maxBinding }: { maxBytes?: number; maxBinding?: number } = {},
) {
  Deno.test({
    name: `webgpu packing: ${name}${SKIP_NOTE}`,
    ignore: GPU_SKIPPED !== undefined,
    async fn(t) {
      const gpu = await openGpu();
      const { device } = gpu;
      const errors: string[] = [];
      device.addEventListener("uncapturederror", (event) => {
        event.preventDefault();
        errors.push((event as GPUUncapturedErrorEvent).error.message);
      });
      const allocator = new Allocator({ device, maxBytes });
      const reader = new Reader(device);
      const context = {
        ...{ allocator, kernels: new Kernels(device), maxBinding: maxBinding ?? gpu.maxBinding },
      };
      try {
        await body({ gpu, allocator, context, read: (runs) => reader.read(runs) }, t);
        assertEquals(errors, []);
      } finally {
        reader.close();
        allocator.close();
        device.destroy();
      }
    },
  });
}

function layout(type: TensorType, cols: number): RowLayout {
  return layoutOf(type, { format: formatOf(type, { exact: false, cols }), cols });
}

/** What the host makes of rows, in memory that has been nothing else: the words of both planes. */
function packed(layout: RowLayout, file: Uint8Array<ArrayBuffer>) {
  const rows = file.length / layout.fileRow;
  const planes = packRows(file, { layout, rows, scratch: new Scratch() });
  assert(planes !== null);
  return { quants: planes.quants.slice(), scales: planes.scales.slice() };
}

/** The words of a part's planes. */
async function planesOf(read: Device["read"], { memory, planes }: WeightPart) {
  const plane = async (offset: number, bytes: number) =>
    new Uint32Array((await read([{ memory, offset, bytes }])).buffer);
  return {
    quants: await plane(0, planes.quantBytes),
    scales: await plane(planes.scaleOffset, planes.scaleBytes),
  };
}

function assertWords(actual: Uint32Array, expected: Uint32Array, what: string): void {
  assertEquals(actual.length, expected.length, what);
  const at = actual.findIndex((word, i) => word !== expected[i]);
  const hex = (words: Uint32Array) => words[at]?.toString(16);
  assert(at < 0, `${what}: word ${at} is ${hex(actual)}, must be ${hex(expected)}`);
}

async function assertPacked(
  { read }: Device,
  { weight, bytes }: { weight: GpuWeight; bytes: Uint8Array },
): Promise<void> {
  const { type, cols, parts } = weight;
  const rowLayout = layout(type, cols);
  for (const part of parts) {
    const from = part.firstRow * rowLayout.fileRow;
    const file = bytes.slice(from, from + part.rows * rowLayout.fileRow);
    const expected = packed(rowLayout, file);
    const actual = await planesOf(read, part);
    assertWords(actual.quants, expected.quants, `quants of ${type} from row ${part.firstRow}`);
    assertWords(actual.scales, expected.scales, `scales of ${type} from row ${part.firstRow}`);
  }
}

/** Row lengths: of whole units, and of such of which the last has fewer blocks. */
function colsOf(type: TensorType): number[] {
  return TENSOR_TYPES[type].blockValues === 32 ? [32, 64, 160, 224, 256] : [256, 768];
}

onDevice("rows have the bits that the host gives them, and others stay", async (device, t) => {
  const { allocator, context, gpu, read } = device;
  for (const [index, type] of TYPES.entries()) {
    await t.step(type, async () => {
      for (const cols of colsOf(type)) {
        const rowLayout = layout(type, cols);
        const [rows, before, behind] = [13, 3, 2];
        const all = { rows: before + rows + behind, cols };
        const planes = planeBytes(rowLayout.format, all);
        const size = planes.scaleOffset + planes.scaleBytes;
        const memory = allocator.allocate("weights", size, type);
        const part: WeightPart = { memory, firstRow: 0, rows: all.rows, planes };
        gpu.device.queue.writeBuffer(memory, 0, new Uint8Array(memory.size).fill(0xff));
        const bytes = blocks(type, { rows, cols, seed: 100 * index + cols });
        const packing = Packing.open(context, { layout: rowLayout, rows: 8 });
        assert(packing !== null);
        // All the rows that it has room for, and then fewer, whose last bytes may be no whole word.
        for (const [from, to] of [[0, 8], [8, 13]]) {
          const file = new Uint8Array(new ArrayBuffer(8 * rowLayout.fileRow + 4));
          const piece = bytes.subarray(from * rowLayout.fileRow, to * rowLayout.fileRow);
          file.set(piece);
          const given = file.subarray(0, piece.length);
          assertEquals(packing.run(part, { file: given, at: before + from }), true);
          // What was given has been taken.
          file.fill(0xaa);
        }
        packing.close();
        const { quants, scales } = packed(rowLayout, bytes);
        const words = (plane: Uint32Array, row: number) => {
          const padded = new Uint32Array(all.rows * row / 4).fill(0xffffffff);
          padded.set(plane, before * row / 4);
          return padded;
        };
        const actual = await planesOf(read, part);
        assertWords(actual.quants, words(quants, rowLayout.quantRow), `quants of ${cols} columns`);
        assertWords(actual.scales, words(scales, rowLayout.scaleRow), `scales of ${cols} columns`);
      }
    });
  }
  assertEquals(allocator.used().workspace, 0);
});

onDevice("every half is what the host makes of it where scales are float32", async (device) => {
  const { allocator, context } = device;
  for (const [type, at] of [["Q6_K", 208], ["Q3_K", 108], ["IQ4_XS", 0]] as const) {
    const finite = Array.from({ length: 1 << 16 }, (_, half) => half)
      .filter((half) => (half & 0x7c00) !== 0x7c00);
    const shape = { rows: finite.length / 8, cols: 2048 };
    const bytes = blocks(type, { ...shape, seed: 1 });
    const view = new DataView(bytes.buffer);
    const { blockBytes } = TENSOR_TYPES[type];
    finite.forEach((half, i) => view.setUint16(i * blockBytes + at, half, true));
    const uploader = new Uploader(context);
    const weight = await uploader.upload([tensorOf(type, { ...shape, bytes })]);
    await assertPacked(device, { weight, bytes });
  }
  assertEquals(allocator.workspaces, 3);
});

/** Experts of which two are a part, and 9 MB, which are more than a piece. Rows have 33 blocks. */
const EXPERT = { rows: 4200, cols: 1056 };
const EXPERTS = 5;

function expertsOf(type: TensorType): { tensors: TensorData[]; bytes: Uint8Array<ArrayBuffer> } {
  const { rows, cols } = EXPERT;
  const bytes = blocks(type, { rows: rows * EXPERTS, cols, seed: 3 });
  const each = rows * rowBytes(type, cols);
  const tensors = Array.from({ length: EXPERTS }, (_, e) => ({
    ...tensorOf(type, { rows, cols, bytes: bytes.subarray(e * each, (e + 1) * each) }),
    name: `expert ${e}`,
  }));
  return { tensors, bytes };
}

const SMALL_BINDING = Math.floor(2.5 * EXPERT.rows * rowBytes("Q8_0", EXPERT.cols));

onDevice(
  "experts in several parts and pieces are whole, and one takes another's place",
  async (device) => {
    const { allocator, context } = device;
    const { tensors, bytes } = expertsOf("Q8_0");
    const uploader = new Uploader(context);
    const weight = await uploader.upload(tensors);
    assertEquals(weight.parts.map(({ rows }) => rows / EXPERT.rows), [2, 2, 1]);
    await assertPacked(device, { weight, bytes });

    const other = blocks("Q8_0", { ...EXPERT, seed: 4 });
    const tensor = tensorOf("Q8_0", { ...EXPERT, bytes: other });
    await uploader.replace(weight, { tensor, firstRow: 3 * EXPERT.rows });
    bytes.set(other, 3 * other.length);
    await assertPacked(device, { weight, bytes });
    assertEquals([allocator.workspaces, allocator.used().workspace], [2, 0]);
  },
  { maxBinding: SMALL_BINDING },
);

onDevice("uploads side by side don't meet", async (device) => {
  const uploader = new Uploader(device.context);
  const shape = { rows: 2000, cols: 2048 };
  const uploads = (["Q4_K", "Q8_0", "Q6_K", "Q4_K"] as const).map(async (type, seed) => {
    const bytes = blocks(type, { ...shape, seed });
    const tensor = tensorOf(type, { ...shape, bytes });
    // Each read lets the others go on.
    const read: TensorData["read"] = async (offset, into) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      await tensor.read(offset, into);
    };
    return { weight: await uploader.upload([{ ...tensor, read }]), bytes };
  });
  for (const upload of await Promise.all(uploads)) await assertPacked(device, upload);
  assertEquals([device.allocator.workspaces, device.allocator.used().workspace], [4, 0]);
});

onDevice("a scale that is no number is refused by its tensor's name", async (device, t) => {
  const { allocator, context } = device;
  const uploader = new Uploader(context);
  const shape = { rows: 600, cols: 1024 };
  for (const [type, offsets] of Object.entries(HALVES) as [TensorType, object][]) {
    await t.step(type, async () => {
      const row = rowBytes(type, shape.cols);
      const { blockBytes } = TENSOR_TYPES[type];
      const good = blocks(type, { ...shape, seed: 5 });
      for (const offset of Object.values(offsets)) {
        for (const wrong of [0x7c00, 0xfc00, 0x7e01]) {
          // The first block of all, one in between, and the last one.
          for (const at of [0, 301 * row + blockBytes, good.length - blockBytes]) {
            const bytes = good.slice();
            new DataView(bytes.buffer).setUint16(at + offset, wrong, true);
            const tensors = [good, bytes, good].map((bytes, e) => ({
              ...tensorOf(type, { ...shape, bytes }),
              name: `expert ${e}`,
            }));
            const taken = allocator.workspaces;
            await assertRejects(() => uploader.upload(tensors), FormatError, "load expert 1:");
            assertEquals([allocator.workspaces - taken, allocator.used().workspace], [1, 0]);
          }
        }
      }
    });
  }
  await t.step("MXFP4", async () => {
    const bytes = blocks("MXFP4", { ...shape, seed: 5 });
    bytes[bytes.length - 17] = 253;
    const tensor = tensorOf("MXFP4", { ...shape, bytes });
    await assertRejects(() => uploader.upload([tensor]), FormatError, tensor.name);
  });
});

const TIGHT = { rows: 512, cols: 1024 };
const TIGHT_BYTES = TIGHT.rows * rowBytes("Q8_0", TIGHT.cols);

onDevice(
  "where the budget has room for the weight only, the host packs it",
  async (device) => {
    const bytes = blocks("Q8_0", { ...TIGHT, seed: 6 });
    const uploader = new Uploader(device.context);
    const weight = await uploader.upload([tensorOf("Q8_0", { ...TIGHT, bytes })]);
    await assertPacked(device, { weight, bytes });
    assertEquals(device.allocator.workspaces, 0);
  },
  { maxBytes: TIGHT_BYTES },
);

onDevice("a device that is lost meanwhile is told of by the device alone", async (device) => {
  const { context, gpu } = device;
  const bytes = blocks("Q8_0", { ...TIGHT, seed: 7 });
  const tensor = tensorOf("Q8_0", { ...TIGHT, bytes });
  const read: TensorData["read"] = (offset, into) => {
    gpu.device.destroy();
    return tensor.read(offset, into);
  };
  await new Uploader(context).upload([{ ...tensor, read }]);
  assertEquals((await gpu.device.lost).reason, "destroyed");
});
