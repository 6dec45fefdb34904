/** Stands for modules of Node that the engine imports, and that nothing calls in a page. */

function missing(): never {
  throw new Error("cannot use Node in a page: nothing of it is there");
}

export const openSync = missing;
export const closeSync = missing;
export const readSync = missing;
export const fstatSync = missing;
export default { memoryUsage: missing };
