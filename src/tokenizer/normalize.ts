/**
 * NFC in linear time. The platform sorts a run of combining marks by insertion, so that 100,000 marks
 * in the wrong order take it six seconds; here long runs are sorted before it sees them. Reordering
 * marks of different combining classes keeps a text canonically equivalent, so the result is NFC's.
 */

/** Runs of fewer marks are left to the platform: its sorting costs nothing there. */
const LONG_RUN = /\p{M}{64,}/gu;

/**
 * One mark of each combining class that is in wide use, in ascending order of class. Marks of a class
 * between two of these are sorted by the platform.
 */
const LANDMARKS = Array.from(
  "\u0334\u093c\u3099\u094d\u05b0\u05b1\u05b2\u05b3\u05b4\u05b5\u05b6\u05b7\u05b8\u05b9\u05bb\u05bc" +
    "\u05bd\u05bf\u05c1\u05c2\ufb1e\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670\u0711" +
    "\u0c55\u0c56\u0e38\u0e48\u0eb8\u0ec8\u0f71\u0f72\u0f74\u0327\u1dce\u031b\u302a\u0316\u059a" +
    "\u302e\u{1d16d}\u05ae\u0300\u0315\u035c\u035d\u0345",
);

/** The text in normalisation form C. */
export function normalizeNfc(text: string): string {
  return text.replace(LONG_RUN, sortMarks).normalize("NFC");
}

function sortMarks(run: string): string {
  const known = new Map<string, readonly ClassedMark[]>();
  const buckets = Array.from({ length: 2 * LANDMARKS.length + 2 }, () => "");
  let sorted = "";
  let isEmpty = true;
  const flush = () => {
    if (isEmpty) return;
    sorted += buckets.join("");
    buckets.fill("");
    isEmpty = true;
  };
  for (const char of run) {
    let marks = known.get(char);
    if (marks === undefined) {
      // Decomposed one by one, which reorders nothing that is not within a single mark.
      marks = Array.from(char.normalize("NFD"), (mark) => ({ mark, order: findClass(mark) }));
      known.set(char, marks);
    }
    for (const { mark, order } of marks) {
      if (order > 0) {
        buckets[order] += mark;
        isEmpty = false;
      } else {
        // Marks of class 0 stay where they are and nothing moves past them.
        flush();
        sorted += mark;
      }
    }
  }
  flush();
  return sorted;
}

interface ClassedMark {
  readonly mark: string;
  readonly order: number;
}

/** A number that grows with the mark's combining class, 0 for class 0. */
function findClass(mark: string): number {
  if (!isAbove(mark, LANDMARKS[0]) && !isAbove(LANDMARKS.at(-1)!, mark)) return 0;
  let low = 0;
  let high = LANDMARKS.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isAbove(mark, LANDMARKS[middle])) low = middle + 1;
    else high = middle;
  }
  // Classes that are equal to a landmark's and those between it and the one below stay apart.
  const isBetween = low < LANDMARKS.length && isAbove(LANDMARKS[low], mark);
  return 1 + 2 * low + (isBetween ? 0 : 1);
}

/** Whether the class of `a` is above that of `b`, which is above 0: only then do they change places. */
function isAbove(a: string, b: string): boolean {
  return a !== b && (a + b).normalize("NFD") === b + a;
}
