/* Numbers as a reader sees them; the same rules as wording.py. */

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function power(value) {
  const [mantissa, exponent] = value.toExponential(2).split("e");
  const raised = Array.from(String(Number(exponent)), (sign) => SUPERSCRIPTS[sign]).join("");
  return `${mantissa.replace("-", "−")}\u00a0×\u00a010${raised}`;
}

/** A contribution: its sign always shown, three digits, powers of ten written as such. */
function signed(value) {
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return `${value > 0 ? "+" : "−"}∞`;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-3 && size < 1e3 ? value.toPrecision(3) : size >= 1e3 && size < 1e5 ? count(Math.round(value)) : power(value);
  return (value > 0 ? "+" : "") + text.replace("-", "−");
}

const known = (error) => error !== undefined && Number.isFinite(error);

/** A contribution to the report's query (or another, with its own suffix): in its unit, or in percent of all. */
function amount(value, suffix = DATA.suffix) {
  return signed(value) + suffix.trim();
}

/** A contribution and, where it is known, its standard error. */
function uncertain(value, error) {
  return amount(value) + (known(error) ? `\u00a0±\u00a0${amount(error).replace("+", "")}` : "");
}

/** A standard error in percent of the value, where there is little room; nothing where it is not known. */
function inPercent(value, error) {
  if (!known(error) || value === 0) return "";
  const share = Math.round((100 * error) / Math.abs(value));
  return ` ±${share > 999 ? ">999" : share}%`;
}

function count(value) {
  return value.toLocaleString("en-US").replace("-", "−");
}

function counted(value, thing) {
  return `${count(value)} ${thing}${value === 1 ? "" : "s"}`;
}

function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)}%`;
}

/** A probability in a few characters: never 0 % or 100 % unless it is that. */
function sure(share) {
  const rounded = Math.round(100 * share);
  if (rounded === 0 && share > 0) return "<1%";
  if (rounded === 100 && share < 1) return ">99%";
  return `${rounded}%`;
}

/** A tick of an axis. */
function tick(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return (size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : power(value).replace(".00", "")).replace("-", "−");
}
