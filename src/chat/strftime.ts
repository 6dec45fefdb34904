/** Python's `strftime` in English and local time, for the templates that write today's date. */

const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");
const MONTHS =
  "January February March April May June July August September October November December".split(
    " ",
  );

/** Formats a date; codes that templates have no use for stay as they are. */
export function strftime(date: Date, format: string): string {
  // A minus sign drops leading zeros, as in the C library that Python uses.
  return format.replace(/%(-?)([a-zA-Z%])/g, (code: string, minus: string, letter: string) => {
    const number = (value: number, width: number) =>
      minus === "-" ? String(value) : String(value).padStart(width, "0");
    const hour = date.getHours();
    switch (letter) {
      case "%":
        return "%";
      case "a":
        return DAYS[date.getDay()].slice(0, 3);
      case "A":
        return DAYS[date.getDay()];
      case "b":
        return MONTHS[date.getMonth()].slice(0, 3);
      case "B":
        return MONTHS[date.getMonth()];
      case "d":
        return number(date.getDate(), 2);
      case "e":
        return String(date.getDate()).padStart(minus === "-" ? 0 : 2, " ");
      case "H":
        return number(hour, 2);
      case "I":
        return number(hour % 12 === 0 ? 12 : hour % 12, 2);
      case "j":
        return number(dayOfYear(date), 3);
      case "m":
        return number(date.getMonth() + 1, 2);
      case "M":
        return number(date.getMinutes(), 2);
      case "p":
        return hour < 12 ? "AM" : "PM";
      case "S":
        return number(date.getSeconds(), 2);
      case "y":
        return number(date.getFullYear() % 100, 2);
      case "Y":
        return String(date.getFullYear());
      default:
        return code;
    }
  });
}

function dayOfYear(date: Date): number {
  const start = Date.UTC(date.getFullYear(), 0, 1);
  const day = Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  return 1 + (day - start) / 86_400_000;
}
