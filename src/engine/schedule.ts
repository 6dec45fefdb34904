/** What the scheduler and the engine say to each other: plain data. */

/** A sequence as the scheduler knows it. */
export interface SequenceSpec {
  readonly id: number;
  readonly prompt: readonly number[];
  /** Tokens it may come to: the prompt and the longest answer. */
  readonly maxTokens: number;
  /** An answer follows: the last row of the prompt wants logits. */
  readonly answers: boolean;
  /** Every other row of the prompt wants logits as well. */
  readonly promptLogits: boolean;
  /**
   * Where its chain of pages begins (`rootKey`): sequences share pages within one root only. A root that
   * no other sequence has makes what it computes its own.
   */
  readonly root: string;
  /**
   * False where nobody will come to the root once its sequences have ended, so that their pages are free
   * then; true where absent.
   */
  readonly lasting?: boolean;
  /** Nobody wants to know more of its tokens than which they are, so that a backend may choose them. */
  readonly tokensOnly: boolean;
  /** Use pages that are there; false where every row of the prompt must be computed. */
  readonly reuse: boolean;
  /** Ask for what the pages in memory don't have (`Step.restores`). */
  readonly restorable: boolean;
  /** Whose turn it is counted to. */
  readonly client: string;
  /** Lower goes first. */
  readonly priority: number;
}

/** Stands for a token that the backend chooses by itself: the one behind the sequence's row before. */
export const CHOSEN_THERE = -1;

/** One token to compute. */
export interface StepRow {
  /** The sequence's id. */
  readonly sequence: number;
  readonly slot: number;
  readonly position: number;
  readonly token: number;
  readonly wantsLogits: boolean;
}

/** A slot's pages, in the order of positions; they hold until the slot is listed again. */
export interface SlotPages {
  /** The sequence's id. */
  readonly sequence: number;
  readonly slot: number;
  readonly pages: Int32Array;
}

/** The first tokens of a page go over another one's, before any row of the step is computed. */
export interface PageCopy {
  readonly from: number;
  readonly to: number;
  readonly tokens: number;
}

/**
 * A sequence that has a slot and pages, and whose rows wait until `restored` is called: somebody may have
 * what its pages lack.
 */
export interface Restore {
  readonly sequence: number;
  /** Key of the unit before (or the root), and the tokens to look for from there on. */
  readonly parent: string;
  readonly tokens: readonly number[];
  /** Where they belong, a page for each PAGE_TOKENS of them. */
  readonly pages: Int32Array;
}

/** A sequence got its slot, with so many tokens of its prompt in pages. */
export interface Started {
  readonly sequence: number;
  /** Of pages in memory, and of those that `restored` brought. */
  readonly memory: number;
  readonly store: number;
}

export interface Step {
  /** Rows of a sequence are neighbours, in ascending position. None where only restores are due. */
  readonly rows: readonly StepRow[];
  /** Slots whose pages have changed: started sequences and answers that need another page. */
  readonly slotPages: readonly SlotPages[];
  readonly copies: readonly PageCopy[];
  readonly restores: readonly Restore[];
  /** Sequences whose first rows are in this step. A sequence that gave way starts only once. */
  readonly started: readonly Started[];
  /**
   * A burst: answers alone, and the backend chooses the token behind each row. Rows of a sequence are
   * computed one after the other, without the host in between.
   */
  readonly burst: boolean;
}

/** A unit that has become whole, or ends a prompt or an answer: worth keeping beyond the pages. */
export interface FilledUnit {
  readonly page: number;
  /** `chainKey` of it and of the unit before (or the root). */
  readonly key: string;
  readonly parent: string;
  /** 1 to PAGE_TOKENS */
  readonly tokens: number;
}
