/** Lines about letters and lists: `spell cat: c a t`, `tally t: c 0, a 0, t 1` and their like. */

/** Whether a line of these forms is right; null for any other line. */
export function checkLetters(line: string): boolean | null {
  const match = /^(spell|join|reverse|sort|tally|smallest of) (.*): (.+)$/.exec(line);
  if (match === null) return null;
  const [, verb, given, made] = match;
  switch (verb) {
    case "spell":
      return made === [...given].join(" ");
    case "join":
      return made === given.split(" ").join("");
    case "reverse":
      return sameList(given.split(" "), made.split(" ").toReversed());
    case "sort":
      return isSorted(listOf(made)) && sameList(listOf(given).sort(), listOf(made).sort());
    case "tally":
      return checkTally(given, made);
    default:
      return isSmallest(listOf(given), made);
  }
}

/** Items between commas, or between spaces where there are none. */
function listOf(text: string): string[] {
  return text.includes(",") ? text.split(", ") : text.split(" ");
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, i) => item === b[i]);
}

/** Numbers by value, anything else as a dictionary of plain letters has it. */
function precedes(a: string, b: string): boolean {
  const numbers = /^\d+$/;
  return numbers.test(a) && numbers.test(b) ? Number(a) <= Number(b) : a <= b;
}

function isSorted(list: readonly string[]): boolean {
  return list.every((item, i) => i === 0 || precedes(list[i - 1], item));
}

function isSmallest(list: readonly string[], item: string): boolean {
  return list.includes(item) && list.every((other) => precedes(item, other));
}

/** Each letter followed by how many of the wanted one there have been. */
function checkTally(wanted: string, made: string): boolean {
  let count = 0;
  return made.split(", ").every((entry) => {
    const parts = entry.split(" ");
    if (parts[0] === wanted) count++;
    return parts.length === 2 && parts[1] === String(count);
  });
}
