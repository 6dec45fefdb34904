/** Which reads an expert's matrices need, and what is said where one fails. */

import { assertEquals } from "@std/assert";
import { LoadTable, type MatrixLoad } from "../../../src/backend/wasm/paging/load_table.ts";
import { failureText, runsOf } from "../../../src/backend/wasm/paging/reading.ts";

function matrix(offset: number, byteLength: number, file = 0): MatrixLoad {
  return { file, offset, byteLength, kind: 8, rows: 2, cols: 32, address: offset };
}

/** Each run as file, offset and length, with the offsets of the matrices in it. */
function runs(...matrices: MatrixLoad[]): [number, number, number, number[]][] {
  return runsOf({ bank: 0, matrices }).map(({ file, offset, byteLength, matrices }) => [
    file,
    offset,
    byteLength,
    matrices.map(({ offset }) => offset),
  ]);
}

Deno.test("adjacent matrices are one read, whatever their order", () => {
  const [gate, up, down] = [matrix(1000, 100), matrix(1100, 100), matrix(1200, 300)];
  const one = [[0, 1000, 500, [1000, 1100, 1200]]];
  assertEquals<unknown>(runs(gate, up, down), one);
  assertEquals<unknown>(runs(down, gate, up), one);
});

Deno.test("small gaps are read along, larger ones make another read", () => {
  const start = 2 ** 33;
  const near = matrix(start + 100 + 4096, 100);
  const far = matrix(near.offset + 100 + 4097, 100);
  assertEquals(runs(matrix(start, 100), near, far), [
    [0, start, 100 + 4096 + 100, [start, near.offset]],
    [0, far.offset, 100, [far.offset]],
  ]);
});

Deno.test("matrices of different files, and overlapping ones, are read apart", () => {
  assertEquals(runs(matrix(100, 100, 1), matrix(0, 100, 0), matrix(150, 100, 1)), [
    [0, 0, 100, [0]],
    [1, 100, 100, [100]],
    [1, 150, 100, [150]],
  ]);
});

for (
  const [file, shown] of [
    ["/home/somebody/models/tiny model.gguf", "tiny model.gguf"],
    ["relative.gguf", "relative.gguf"],
    ["https://me:secret@host:8000/private/tiny.gguf?token=secret#secret", "tiny.gguf"],
    ["HTTP://host/a%20b.gguf", "a b.gguf"],
  ]
) {
  Deno.test(`a failed read from ${file} is said to be from ${shown}`, () => {
    const table = new LoadTable({ slots: 1 });
    table.addFile({ file: "another.gguf" });
    const matrices = [matrix(0, 32, table.addFile({ file }))];
    const error = new Error("it is gone");
    assertEquals(
      failureText({ bank: 0, matrices }, { table, error }),
      `cannot read an expert from "${shown}": it is gone`,
    );
  });
}
