/**
 * Softmax attention over pages, blockwise with a running maximum (Milakov & Gimelshein 2018; Dao 2023).
 *
 * What is added in which order depends on positions only. A page has the sum of its tokens in order.
 * Pages of a segment of four are merged in order, and so are segments. Thus a segment can be a
 * workgroup's own (`attend_rows.ts`, merged by `attend_segments.ts`), or a workgroup can walk all of
 * them for one row or for a tile of rows that share a sequence (`attend_tiles.ts`): the bits are the same.
 *
 * Scores are in units of log2(e), so that weights are powers of two.
 */

import { UnsupportedOpError } from "../../../errors.ts";
import { attendRows, rowShape } from "./attend_rows.ts";
import { mergeSegments } from "./attend_segments.ts";
import { attendTiles, tileShape } from "./attend_tiles.ts";
import { UNIT, unitsOf } from "./cells.ts";
import type { OpContext } from "./context.ts";
import { type Attention, SEGMENT_PAGES, SEGMENT_TOKENS, type Split } from "./softmax.ts";

/** Workgroups that keep a large GPU busy. */
const ENOUGH_WORKGROUPS = 1024;
/** Bytes of sums of segments that one op may take. */
const MAX_PARTIAL_BYTES = 96 * 2 ** 20;
/** Fewer rows are hardly of one sequence. */
const MIN_TILED_ROWS = 32;
/** Tiles of one row need no neighbours, but a workgroup walks all of its sequence. */
const MIN_SINGLE_TILES = 256;
/** Widest values whose sums fit the threads of a workgroup. */
const MAX_VALUE_DIM = 512;

export function attend(context: OpContext, attention: Attention): void {
  if (attention.value.dim > MAX_VALUE_DIM) {
    throw new UnsupportedOpError(
      `cannot record ${attention.label}: values are ${attention.value.dim} numbers wide, ` +
        `must be at most ${MAX_VALUE_DIM} for the webgpu backend`,
    );
  }
  const { rows, kvHeads } = attention;
  const tiles = tileShape(attention);
  const split = splitOf(context, attention);
  const isTiled = tiles.rows === 1
    ? rows * kvHeads * tiles.chunks >= MIN_SINGLE_TILES
    : rows >= MIN_TILED_ROWS;
  if (isTiled) context.run(attendTiles(attention, tiles));
  if (isTiled && tiles.rows === 1) return;
  // Rows of tiles are left to them.
  const tileRows = isTiled ? tiles.rows : 0;
  context.run(attendRows(attention, { tileRows, split }));
  if (split !== null) context.run(mergeSegments(attention, { tileRows, split }));
}

/** Null where rows are so many, or sequences so short, that a workgroup had better walk all segments. */
function splitOf(context: OpContext, attention: Attention): Split | null {
  const { rows, heads, batch, value } = attention;
  const segments = segmentsOf(attention);
  const rowBytes = heads * segments * unitsOf(value.dim) * UNIT * 4;
  const slotsOf = (rows: number) => {
    if (rows * rowBytes > MAX_PARTIAL_BYTES) return 1;
    const { workgroups } = rowShape({ ...attention, rows });
    return Math.min(segments, Math.ceil(ENOUGH_WORKGROUPS / (rows * workgroups)));
  };
  // Room for any step of these buffers: the first one recorded allocates for all.
  let most = 0;
  while (most < batch.positions.rows && slotsOf(most + 1) > 1) most++;
  if (most === 0) return null;
  const sums = context.scratch("attention sums", most * rowBytes);
  const stats = context.scratch("attention stats", most * heads * segments * 8);
  return rows > most ? null : { slots: slotsOf(rows), segments, sums, stats };
}

/** Segments that a row may see. */
function segmentsOf({ batch, window = Infinity }: Attention): number {
  const all = Math.ceil(batch.pageTables.width / SEGMENT_PAGES);
  return Math.min(all, Math.floor((window + SEGMENT_TOKENS - 2) / SEGMENT_TOKENS) + 1);
}
