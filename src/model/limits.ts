/** Bounds well above any published model: they keep products of two within exact integers. */

export const MAX_LAYERS = 1024;
export const MAX_WIDTH = 2 ** 20;
export const MAX_HEADS = 4096;
export const MAX_HEAD_DIM = 4096;
export const MAX_VOCAB = 2 ** 24;
export const MAX_CONTEXT = 2 ** 30;
export const MAX_EXPERTS = 65_536;
